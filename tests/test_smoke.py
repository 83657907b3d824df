import os
from origin import Serve


def test_basic(origin, start, host):
    body = origin.put("/a.tar.gz", os.urandom(300_000))
    proxy = start(origin.url, host=host)
    r = proxy.get("/a.tar.gz")
    assert r.status == 200 and r.body == body and r.whole, (r.status, r.body[:100], proxy.log)
    r = proxy.get("/a.tar.gz")
    assert r.cache_status == "package-cache; hit" and r.body == body
    assert len(origin.requests()) == 1
    r = proxy.get("/a.tar.gz", {"Range": "bytes=100-199"})
    assert r.status == 206 and r.body == body[100:200]
    origin.put("/cut.tar.gz", body, Serve(cut=200_000))
    r = proxy.get("/cut.tar.gz")
    assert not r.whole
    print(proxy.log)
    r = proxy.get("/cut.tar.gz")
    assert not r.whole
    code = proxy.stop()
    assert code in (0, -15), code
    print("".join(proxy.log))
    print(origin.requests())
