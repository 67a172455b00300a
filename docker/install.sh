#!/usr/bin/env bash
# Install the package into an image: beside apt's ROS 2 as README.md does, else with PyPI's.
set -eo pipefail
cd /ros2_ws
source=src/desertmind_seg

if [ -z "$ROS_DISTRO" ]; then
  pip install --no-cache-dir --require-hashes \
    -r "$source/requirements/runtime.txt" -r "$source/requirements/ros.txt"
  pip install --no-cache-dir --no-deps "./$source"
  exit
fi

# shellcheck disable=SC1090
source "/opt/ros/$ROS_DISTRO/setup.bash"
apt-get update
apt-get install -y --no-install-recommends python3-venv
rosdep update
rosdep install --from-paths src --ignore-src -y
rm -rf /var/lib/apt/lists/*
python3 -m venv --system-site-packages .venv
touch .venv/COLCON_IGNORE
# shellcheck disable=SC1091
source .venv/bin/activate
pip install --no-cache-dir --require-hashes -r "$source/requirements/runtime.txt"
python3 "$(command -v colcon)" build
