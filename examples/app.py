"""The same small application twice: for WSGI servers (gunicorn) and for ASGI servers (uvicorn)."""


def wsgi(environ, start_response):
    """Say hello."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from WSGI at {environ['PATH_INFO']}".encode()]


async def asgi(scope, receive, send):
    """Say hello."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"hello from ASGI at {scope['path']}".encode()})
