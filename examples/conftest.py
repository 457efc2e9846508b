"""What the tests have in common: programs that may not be installed, and HTTP over a Unix socket.

In this project a test asks first for its servers, then for its clients: pytest undoes them in reverse order, and a
server whose client stays may not end as it should.
"""

import glob
import http.client
import os
import shutil

import pytest

# Debian keeps daemons out of a user's PATH, and PostgreSQL's out of everybody's.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)])


@pytest.fixture(scope="session")
def program():
    """``program("nginx", "apt install nginx")``: where it is; the test is skipped if it is not installed."""

    def find(name, advice):
        return shutil.which(name, path=PATH) or pytest.skip(f"{name} is not installed: {advice}")

    return find


@pytest.fixture
def get(make_uds_client):
    """``get(path, "/url")``: an HTTP request to the server at ``path``; the status and the text of its answer."""

    def get(path, url="/"):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = make_uds_client(path)  # a socket.socket: any client library that takes one will do
        connection.request("GET", url, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()

    return get
