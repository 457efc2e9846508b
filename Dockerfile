# The lab in an image: udslab on any base that has Python 3.9 or newer, and nothing else.
#   docker build -t udslab-demo .
#   docker build -t udslab-demo --build-arg BASE=$(script/base-images debian-13) .
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE}
COPY lab/udslab /opt/udslab/udslab
# The directory of the socket: a volume that is mounted there for the first time gets this owner, group and mode. The
# server (10001) and the client (10002) are different users, and share a group.
RUN python3 -m compileall -q /opt/udslab && find /opt/udslab ! -perm -444 -exec chmod a+rX {} + \
    && printf '#!/usr/bin/env python3\nimport sys\nfrom udslab.cli import main\nsys.exit(main())\n' >/usr/local/bin/udslab \
    && chmod 755 /usr/local/bin/udslab \
    && mkdir /run/udslab && chown 10001:10000 /run/udslab && chmod 2770 /run/udslab
ENV PYTHONPATH=/opt/udslab PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10000
WORKDIR /run/udslab
CMD ["udslab", "demo"]
