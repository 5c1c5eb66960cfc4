//! The programs that lead probes along a client's way, in this machine's kernel: what it makes of its
//! own packets where room is made in them, and a connection through both programs.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use aya::programs::{TcAttachType, TestRun, TestRunOptions};
use bytemuck::Zeroable;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lb_common::abi::{KIND_DSR, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, Server};
use lb_common::encap::overhead;
use lb_userspace::dataplane::keys::address;
use lb_userspace::dataplane::probe_path::{Flight, Means, ProbePath, Programs};
use lb_userspace::net::Link;

use crate::rig::{GUE_PORT, Rig, Sizes};

const OWN: u16 = 40_000;
const PORT: u16 = 8080;
const TCP: u8 = 6;

/// Kind, and whether server and VIP are IPv4.
const WAYS: [(u32, bool, bool); 10] = [
    (KIND_DSR, true, true),
    (KIND_DSR, false, false),
    (KIND_IPIP4, true, true),
    (KIND_IPIP4, true, false),
    (KIND_IPIP6, false, true),
    (KIND_IPIP6, false, false),
    (KIND_GUE4, true, true),
    (KIND_GUE4, true, false),
    (KIND_GUE6, false, true),
    (KIND_GUE6, false, false),
];

fn host(is_v4: bool, last: u8) -> IpAddr {
    if is_v4 { [10, 77, 0, last].into() } else { [0xfd77, 0, 0, 0, 0, 0, 0, last.into()].into() }
}
const LB: u8 = 2;
const SERVER: u8 = 11;
const VIP: u8 = 200;

fn open() -> (Arc<ProbePath>, Programs) {
    let rig = Rig::load(Sizes::default());
    let path = Arc::new(ProbePath::new(rig.maps, Vec::new()));
    let mut programs = Programs::load(&path.settings()).unwrap();
    programs.open(&path);
    (path, programs)
}

fn server(kind: u32, at: IpAddr, source: IpAddr) -> Server {
    Server {
        ethernet: [0x0101_0101, 0x0202_0101, 0x0202_0202],
        ifindex: 1,
        address: address(at),
        source: address(source),
        kind,
        mtu: 1500,
        ..Server::zeroed()
    }
}

fn segment(from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match (from.0, to.0) {
        (IpAddr::V4(s), IpAddr::V4(d)) => builder.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => builder.ipv6(s.octets(), d.octets(), 64),
        ends => panic!("{ends:?}"),
    };
    let mut frame = Vec::new();
    builder.tcp(from.1, to.1, 7, 1024).syn().write(&mut frame, b"data").unwrap();
    frame
}

/// Both ends of a packet whose checksums are right.
fn ends(packet: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Tcp(slice)) = &sliced.transport else { panic!("{sliced:?}") };
    let (tcp, payload) = (slice.to_header(), slice.payload());
    assert_eq!(payload, b"data");
    let (source, destination, checksum) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let ip = v4.header().to_header();
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            let checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), checksum)
        }
        NetSlice::Ipv6(v6) => {
            let ip = v6.header().to_header();
            let checksum = tcp.calc_checksum_ipv6(&ip, payload).unwrap();
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), checksum)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(checksum, tcp.checksum);
    ((source, tcp.source_port), (destination, tcp.destination_port))
}

/// What a program makes of a packet, and its answer.
fn run(programs: &mut Programs, place: TcAttachType, frame: &[u8]) -> (i32, Vec<u8>) {
    let mut out = vec![0xaa; frame.len() + 128];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    let result = programs.program(place).unwrap().test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value as i32, out)
}

/// "To the next program" (`TC_ACT_UNSPEC`).
const NEXT: i32 = -1;

#[test]
fn packets_are_turned_in_every_mode_and_family() {
    let (path, mut programs) = open();
    let count = programs.verified_instructions.expect("kernels since 5.16 tell");
    println!("instructions of the probes' programs: {count}");
    for (kind, server_v4, vip_v4) in WAYS {
        let told = format!("kind {kind}, VIP is IPv4: {vip_v4}");
        let (local, at) = ((host(server_v4, LB), OWN), (host(server_v4, SERVER), PORT));
        let (source, vip) = ((host(vip_v4, LB), OWN), (host(vip_v4, VIP), PORT));
        let flight = Flight {
            protocol: TCP,
            local: local.into(),
            server: at.into(),
            vip: vip.0,
            source: source.0,
        };
        let (out, back) = (segment(local, at), segment(vip, source));
        let record = server(kind, at.0, local.0);
        let entered = path.enter(&flight, record).unwrap().expect("no other is in flight");
        assert!(path.enter(&flight, record).unwrap().is_none(), "{told}: the port is taken");

        let (action, frame) = run(&mut programs, TcAttachType::Egress, &out);
        assert_eq!(action, NEXT, "{told}");
        assert_eq!(frame[..12], *bytemuck::bytes_of(&record.ethernet), "{told}");
        let added = overhead(kind) as usize;
        assert_eq!(ends(&frame[14 + added..]), (source, vip), "{told}");
        if added > 0 {
            let outer = SlicedPacket::from_ethernet(&frame).unwrap();
            let outer_ends = match outer.net.as_ref().unwrap() {
                NetSlice::Ipv4(v4) => {
                    let ip = v4.header().to_header();
                    assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "{told}");
                    (IpAddr::from(ip.source), IpAddr::from(ip.destination))
                }
                NetSlice::Ipv6(v6) => {
                    let ip = v6.header().to_header();
                    (IpAddr::from(ip.source), IpAddr::from(ip.destination))
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(outer_ends, (local.0, at.0), "{told}");
            if let Some(TransportSlice::Udp(udp)) = &outer.transport {
                assert_eq!(udp.destination_port(), GUE_PORT, "{told}");
            }
        }

        let (action, frame) = run(&mut programs, TcAttachType::Ingress, &back);
        assert_eq!((action, ends(&frame[14..])), (NEXT, (at, local)), "{told}");

        drop(entered);
        assert_eq!(run(&mut programs, TcAttachType::Egress, &out), (NEXT, out.clone()), "{told}");
        assert_eq!(run(&mut programs, TcAttachType::Ingress, &back), (NEXT, back), "{told}");
    }
}

/// Runs in a network namespace of its own, whose loopback is up.
fn alone(body: impl FnOnce(&Link) + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: moves this thread, which ends with the test, to a new namespace.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            raise_loopback();
            body(&Link {
                ifindex: 1,
                name: "lo".into(),
                mac: None,
                mtu: 65_536,
                up: true,
                kind: None,
                master: None,
                vlan: None,
            });
        });
        thread.join().unwrap();
    });
}

fn raise_loopback() {
    // SAFETY: all zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: a socket of our own, and a request that outlives the call.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request), 0);
        libc::close(socket);
    }
}

/// A server that has the VIP answers, through both programs, to a socket that is connected to the
/// server's own address. All of it on the loopback, where the kernel leaves checksums for later.
fn connect_on_loopback(means: Means) {
    alone(|lo| {
        let (path, mut programs) = open();
        programs.attach_to(lo, means).unwrap();
        let vip: IpAddr = "127.9.9.9".parse().unwrap();
        let listener = TcpListener::bind((vip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = SocketAddr::new("127.0.0.5".parse().unwrap(), port);
        assert!(TcpStream::connect(at).is_err(), "nobody listens there");

        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let local = socket.local_addr().unwrap().as_socket().unwrap();
        let flight = Flight { protocol: TCP, local, server: at, vip, source: local.ip() };
        let record = Server { ethernet: [0; 3], ..server(KIND_DSR, at.ip(), local.ip()) };
        let entered = path.enter(&flight, record).unwrap().unwrap();
        socket.connect(&at.into()).expect("it answers for the VIP");
        let mut client = TcpStream::from(socket);
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from, local);
        client.write_all(b"question").unwrap();
        let mut read = [0; 8];
        accepted.read_exact(&mut read).unwrap();
        accepted.write_all(&read).unwrap();
        client.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"question");
        drop((client, entered));
    });
}

#[test]
fn a_connection_goes_by_filters_of_every_kernel() {
    connect_on_loopback(Means::Filters);
}

#[test]
fn a_connection_goes_by_what_this_kernel_has() {
    alone(|lo| {
        let (_path, mut programs) = open();
        let means = programs.attach(std::slice::from_ref(lo)).unwrap();
        println!("this kernel attaches programs of tc by {means:?}");
        drop(programs);
        connect_on_loopback(means);
    });
}
