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
# Fast DDS 3 reads the first name, Fast DDS 2 the second.
name=FASTDDS_DEFAULT_PROFILES_FILE
case $ROS_DISTRO in humble | iron | jazzy) name=FASTRTPS_DEFAULT_PROFILES_FILE ;; esac
if [ -z "${!name}" ]; then
  export "$name=/ros2_ws/src/desertmind_seg/config/fastdds.xml"
fi
exec "$@"
