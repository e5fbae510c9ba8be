import socket, threading, time, pytest
from .conftest import *
from .test_network_encryption import EncryptedSite, site, pair
pytestmark = pytest.mark.root
def stream(one, two, family, address):
    srv = two.here(lambda: socket.create_server((address, 7777), family=family))
    got=[0]
    def rx():
        c,_=srv.accept()
        while (d:=c.recv(1<<20)): got[0]+=len(d)
    t=threading.Thread(target=rx); t.start()
    c=one.here(lambda: socket.create_connection((address,7777)))
    end=time.monotonic()+4; b=bytes(1<<20)
    while time.monotonic()<end: c.send(b)
    c.close(); t.join(); srv.close()
    return got[0]/4/1e6*8
async def test_speed(site):
    await pair(site)
    one,two=site.hosts
    for _ in range(2):
        print("\nplain Mbit/s", round(stream(one,two,socket.AF_INET,two.address)), "wg", round(stream(one,two,socket.AF_INET6,"fd67:75::2")))
    import os
    from .test_network_encryption import processes
    for h in site.hosts:
        for p in processes(h): print([l for l in open(f"/proc/{p}/status") if l.startswith("VmRSS")])
