#!/usr/bin/env bash
# Source apt's ROS 2 and the workspace where the image has them, set the profile for images, run.
set -eo pipefail

if [ -n "$ROS_DISTRO" ]; then
  # shellcheck disable=SC1090
  source "/opt/ros/$ROS_DISTRO/setup.bash"
  # shellcheck disable=SC1091
  source /ros2_ws/install/setup.bash
  PATH=/ros2_ws/install/desertmind_seg/lib/desertmind_seg:$PATH
fi
profile=/ros2_ws/src/desertmind_seg/config/fastdds.xml
# Fast DDS 3 reads the first name, Fast DDS 2 (Humble, Jazzy) the second.
export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$profile}"
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$FASTDDS_DEFAULT_PROFILES_FILE}"
exec "$@"
