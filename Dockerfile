# vadx in a container. torch's wheels carry CUDA and PyAV's wheel carries FFmpeg, so a slim Python is base enough:
# the host needs an NVIDIA driver and its container toolkit, nothing else.
#
#   docker build -t vadx .
#   docker run --rm --init --gpus all -v "$PWD:/data" -v vadx-cache:/cache vadx \
#       extract --backbone i3d videos/
#
# --user "$(id -u):$(id -g)": where the folder behind /data belongs to somebody other than uid 1000.
# Without a GPU leave --gpus away.
FROM python:3.12-slim

# "video" mounts the driver's decoder (NVDEC), which "compute,utility" alone leaves out.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PIP_ROOT_USER_ACTION=ignore \
    VADX_HOME=/cache

# Mode 1777, so that any --user can write the weights' cache, and the results where /data is not mounted.
RUN useradd --uid 1000 --user-group --create-home vadx \
    && install --directory --owner vadx --group vadx --mode 1777 /cache /data

WORKDIR /opt/vadx

# The gigabytes of torch and CUDA are a layer of their own: only a new pin fetches them again.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch torchvision

# .dockerignore lists what the context holds: the sources, with the symlinks from src/vadx/ to the rooms.
COPY . .
RUN pip install --no-cache-dir -c constraints.txt . \
    && rm -rf build vadx.egg-info

USER 1000:1000
WORKDIR /data
ENTRYPOINT ["vadx"]
CMD ["--help"]
