"""probe"""
from conftest import lines_with

def test_a(inner):
    r = inner('''
    def test_long(make_uds_path):
        make_uds_path("n" * 200)
    def test_kept(uds_path):
        s = socket.socket(socket.AF_UNIX)
        s.bind(uds_path)
        s.close()
        open(uds_path + ".txt", "w").write("hello")
        assert 0
    def test_bad(make_uds_server):
        make_uds_server("nothing")
    def test_both(make_uds_server):
        make_uds_server("echo", handler=print)
    def test_handler(make_uds_server, make_uds_client):
        def handler(c):
            raise ValueError("boo")
        s = make_uds_server(handler=handler)
        assert make_uds_client(s).recv(1) == b""
    def test_late(make_uds_server, make_uds_client):
        def handler(c):
            c.recv(1)
            raise ValueError("late")
        s = make_uds_server(handler=handler)
        c = make_uds_client(s)
    def test_refused(make_uds_client, uds_path):
        make_uds_client(uds_path)
    def test_dies(make_uds_process):
        make_uds_process([sys.executable, "server.py", "{socket}", "dies"])
    def test_never(make_uds_process):
        make_uds_process([sys.executable, "server.py", "{socket}", "never"], timeout=0.3)
    def test_missing(make_uds_process):
        make_uds_process("nosuchprogram {socket}")
    def test_stubborn(make_uds_process):
        p = make_uds_process([sys.executable, "server.py", "{socket}", "stubborn"])
        p.stop(0.1)
        assert 0
    def test_leave(make_uds_process):
        p = make_uds_process([sys.executable, "server.py", "{socket}", "leave"])
    @pytest.mark.uds(backend="process", service="service:noisy")
    def test_log(uds_server, uds_client):
        uds_client.sendall(b"x")
        uds_client.recv(1)
        assert 0
    ''', files={"service": '''
    from udslab.services import per_chunk
    def answer(data):
        print("answering", data, flush=True)
        return data
    noisy = per_chunk(answer)
    '''})
    assert 0
