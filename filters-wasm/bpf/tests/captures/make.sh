#!/bin/sh
# Makes linux.txt: what two Linux hosts say to each other, captured from a veth pair by tcpdump. Needs root, iproute2, ping,
# tcpdump and python3. Each line of the result: link type, length on the wire, captured bytes in hex.
#
#   sh make.sh > linux.txt
set -eu
a=cap-a-$$ b=cap-b-$$ pcap=$(mktemp)
trap 'ip netns del $a; ip netns del $b; rm -f $pcap' EXIT
ip netns add $a && ip netns add $b
ip -n $a link add veth0 type veth peer name veth0 netns $b
in_a() { ip netns exec $a "$@" > /dev/null 2>&1 || true; }
in_b() { ip netns exec $b "$@" > /dev/null 2>&1 || true; }
# Headers are what is looked at: 200 bytes of each frame cut the long ones and leave the short ones whole.
ip -n $b link set veth0 up
ip netns exec $b tcpdump -Z root -i veth0 -s 200 -U -w "$pcap" 2> /dev/null &
dump=$!
sleep 1
for ns in $a $b; do
    # Checksums and segments as they would be on a wire.
    ip netns exec $ns ethtool -K veth0 tx off tso off gso off > /dev/null 2>&1 || true
    ip -n $ns link set lo up
    ip -n $ns link set veth0 up
done
ip -n $a addr add 10.0.0.1/24 dev veth0 && ip -n $b addr add 10.0.0.2/24 dev veth0
ip -n $a addr add 2001:db8::1/64 dev veth0 nodad && ip -n $b addr add 2001:db8::2/64 dev veth0 nodad
sleep 2
in_a ping -c 2 -i 0.2 10.0.0.2
in_a ping -c 1 -s 4000 10.0.0.2
in_a ping -c 1 -R 10.0.0.2
in_a ping -c 2 -i 0.2 2001:db8::2
in_a ping -c 1 -s 4000 2001:db8::2
in_a ping -c 1 -W 1 10.0.0.77
in_a ping -c 1 -W 1 -b 10.0.0.255
talk() { ip netns exec "$1" python3 - "$2" <<'PY'
import socket, sys, time
host = sys.argv[1]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for port in (80, 443, 22, 1024, 2047):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(1)
        try:
            s.connect((host, port))
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            s.recv(4096)
        except OSError:
            pass
for port, length in ((53, 30), (123, 48), (5353, 60), (65535, 0), (4500, 2000), (53, 1)):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.sendto(b"x" * length, (host, port))
try:
    with socket.socket(family, socket.SOCK_STREAM, 132) as s:
        s.settimeout(1)
        s.connect((host, 80))
except OSError:
    pass
for protocol in (2, 4, 47, 50, 51, 89, 112):
    with socket.socket(family, socket.SOCK_RAW, protocol) as s:
        s.sendto(bytes(range(24)), (host, 0))
PY
}
ip netns exec $b python3 -m http.server --bind :: 80 > /dev/null 2>&1 &
server=$!
sleep 1
for host in 10.0.0.2 2001:db8::2; do talk $a $host; done
in_b ping -c 1 ff02::1%veth0
# What a kernel without the modules does not send by itself: tags, labels, PPPoE, link-layer protocols.
ip netns exec $a python3 - <<'PY'
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("veth0", 0))
src = s.getsockname()[4]
udp = bytes.fromhex("450000240001000040110000c0a80201c0a80264") + struct.pack(">HHHH", 1024, 53, 16, 0) + bytes(8)
tcp = bytes.fromhex("450000280002400040060000c0a80201c0a80264") + struct.pack(">HHIIBBHHH", 2048, 80, 1, 2, 80, 2, 512, 0, 0)
for head in ("81000005" "0800", "8100a005" "0800", "88a80007" "81000005" "0800", "81000009" "0800",
             "8847000641ff", "884700064000" "000071ff", "8864110000010026" "0021", "8863110900000000"):
    for payload in (udp, tcp):
        s.send(bytes.fromhex("ffffffffffff") + src + bytes.fromhex(head) + payload)
for frame in ("0180c2000000 %s 0026 424203 000000000080006400010203 0000000080006400010203048002000014000200 0f00",
              "0180c200000e %s 88cc 0207 04 020000000001 0403 05 7665 0602 0078 0000",
              "ffffffffffff %s 8035 0001 0800 06 04 0003 020000000001 00000000 020000000001 00000000"):
    f = bytes.fromhex(frame.replace("%s", src.hex()).replace(" ", ""))
    s.send(f + bytes(max(0, 60 - len(f))))
PY
kill $server
sleep 1
kill $dump
wait $dump 2> /dev/null || true
python3 - "$pcap" <<'PY'
import struct, sys
data, at = open(sys.argv[1], "rb").read(), 24
link = struct.unpack("<I", data[20:24])[0]
while at < len(data):
    captured, wire = struct.unpack("<8xII", data[at:at + 16])
    print(link, wire, data[at + 16:at + 16 + captured].hex())
    at += 16 + captured
PY
