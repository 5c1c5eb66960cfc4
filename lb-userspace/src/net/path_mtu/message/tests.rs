//! Messages as routers make them, and what is none.

use etherparse::{IpNumber, Ipv4Header, Ipv4Options};
use proptest::prelude::*;

use super::super::packets::Inner::{self, Protocol, Udp};
use super::super::packets::{packet, too_big};
use super::*;

const GUE: u16 = 6080;
const SOURCE: &str = "10.5.5.5";
const SERVER: &str = "10.9.0.5";
const SOURCE_V6: &str = "fd05::5";
const SERVER_V6: &str = "fd09::5";

/// A message that quotes `quoted` bytes of a packet.
fn message(v6: bool, inner: Inner, quoted: usize, mtu: u32) -> Vec<u8> {
    let (source, server) = if v6 { (SOURCE_V6, SERVER_V6) } else { (SOURCE, SERVER) };
    too_big(&packet(source, server, inner, 1500)[..quoted], source, mtu)
}

#[test]
fn messages_about_tunnels_are_read() {
    for (v6, inner, quoted, mtu, expected) in [
        (false, Protocol(4), 28, 1400, Some(1400)),
        (false, Protocol(41), 548, 1400, Some(1400)),
        (false, Udp(GUE), 28, 1480, Some(1480)),
        (false, Udp(GUE), 24, 1480, Some(1480)),
        (false, Protocol(4), 28, 575, Some(576)),
        (false, Protocol(4), 28, 0, Some(576)),
        (false, Protocol(4), 28, 9000, Some(9000)),
        (true, Protocol(4), 48, 1400, Some(1400)),
        (true, Protocol(41), 1192, 1400, Some(1400)),
        (true, Udp(GUE), 48, 1480, Some(1480)),
        (true, Protocol(41), 48, 1279, Some(1280)),
        (true, Protocol(41), 48, 0, Some(1280)),
        (true, Protocol(41), 48, u32::MAX, Some(u32::MAX)),
        // Others' packets, and quotes that end too early to tell.
        (false, Protocol(6), 28, 1400, None),
        (false, Udp(443), 28, 1400, None),
        (false, Udp(GUE), 23, 1400, None),
        (false, Protocol(4), 19, 1400, None),
        (true, Protocol(6), 48, 1400, None),
        (true, Udp(443), 48, 1400, None),
        (true, Udp(GUE), 43, 1400, None),
        (true, Protocol(41), 39, 1400, None),
    ] {
        let server = if v6 { SERVER_V6 } else { SERVER }.parse().unwrap();
        let expected = expected.map(|mtu| Said::TooBig(TooBig { server, mtu }));
        let mut bytes = message(v6, inner, quoted, mtu);
        assert_eq!(read(&bytes, GUE), expected, "{inner:?} of {quoted} bytes, {mtu}");
        // As short frames are padded.
        bytes.extend([0; 18]);
        assert_eq!(read(&bytes, GUE), expected, "{inner:?} of {quoted} bytes, {mtu}, padded");
    }
}

#[test]
fn options_are_skipped() {
    let mut quoted = packet(SOURCE, SERVER, Udp(GUE), 64);
    // A header of 24 bytes; what the router quotes need not have a good checksum.
    quoted[0] = 0x46;
    quoted.splice(20..20, [1, 1, 1, 0]);
    let plain = too_big(&quoted, SOURCE, 1400);
    let mut header = Ipv4Header::from_slice(&plain).unwrap().0;
    header.options = Ipv4Options::from([1, 1, 1, 0]);
    header.total_len += 4;
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(&plain[20..]);
    let server = SERVER.parse().unwrap();
    assert_eq!(read(&bytes, GUE), Some(Said::TooBig(TooBig { server, mtu: 1400 })));
}

/// The message with another byte, and the checksum that this makes.
fn changed(message: &[u8], at: usize, value: u8) -> Vec<u8> {
    let (mut bytes, field) = (message.to_vec(), if message[0] >> 4 == 4 { 22 } else { 42 });
    let word = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let start = at & !1;
    let before = word(&bytes, start);
    bytes[at] = value;
    // RFC 1624, equation 3.
    let mut sum = (!word(&bytes, field) & 0xffff) + (!before & 0xffff) + word(&bytes, start);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[field..field + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    let unreachable = |server: &str| Some(Said::Unreachable(server.parse().unwrap()));
    for (inner, is_tunnel) in
        [(Protocol(4), true), (Protocol(41), true), (Udp(GUE), true), (Udp(443), false)]
    {
        // Net, host, protocol and port; prohibited.
        for code in [0, 1, 2, 3, 13] {
            let bytes = changed(&message(false, inner, 28, 0), 21, code);
            let expected = unreachable(SERVER).filter(|_| is_tunnel);
            assert_eq!(read(&bytes, GUE), expected, "{inner:?}, code {code}");
        }
        let bytes = changed(&message(true, inner, 48, 1400), 40, 1);
        let expected = unreachable(SERVER_V6).filter(|_| is_tunnel);
        assert_eq!(read(&bytes, GUE), expected, "{inner:?}");
    }
}

#[test]
fn other_packets_are_none() {
    let quoted = packet(SOURCE, SERVER, Protocol(4), 28);
    let source_quench = changed(&too_big(&quoted, SOURCE, 1400), 20, 4);
    let later = {
        let mut quoted = quoted;
        quoted[7] = 1;
        too_big(&quoted, SOURCE, 1400)
    };
    let crossed = too_big(&packet(SOURCE_V6, SERVER_V6, Protocol(41), 60), SOURCE, 1400);
    let crossed_v6 = too_big(&packet(SOURCE, SERVER, Protocol(4), 60), SOURCE_V6, 1400);
    let bare = packet(SOURCE, SERVER, Protocol(IpNumber::ICMP.0), 28);
    for (what, bytes) in [
        ("source quench", source_quench),
        ("about a later fragment", later),
        ("IPv6 quoted in ICMP", crossed),
        ("IPv4 quoted in ICMPv6", crossed_v6),
        ("no ICMP at all", bare),
        ("a tunnel's packet", packet(SOURCE, SERVER, Protocol(4), 1500)),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(read(&bytes, GUE), None, "{what}");
    }
}

#[test]
fn damage_is_noticed() {
    for (v6, good) in
        [(false, message(false, Udp(GUE), 28, 1400)), (true, message(true, Udp(GUE), 48, 1400))]
    {
        let said = read(&good, GUE);
        assert!(said.is_some());
        for length in 0..good.len() {
            assert_eq!(read(&good[..length], GUE), None, "{length} bytes of it");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Class, flow label and hop limit of IPv6 have no checksum.
            let free = v6 && matches!((bit / 8, bit % 8), (0, 0..4) | (1..4 | 7, _));
            assert!(free || read(&bad, GUE).is_none(), "bit {bit}, v6: {v6}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = read(&bytes, GUE);
    }

    #[test]
    fn any_quote_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
        for (v6, to) in [(false, SOURCE), (true, SOURCE_V6)] {
            let said = read(&too_big(&bytes, to, 1400), GUE);
            let is_right = |said| match said {
                Said::TooBig(said) => said.server.is_ipv6() == v6 && said.mtu == 1400,
                Said::Unreachable(_) => false,
            };
            prop_assert!(said.is_none_or(is_right));
        }
    }
}
