//! What a frame is read as, at every length and with every odd header.

use proptest::prelude::*;

use super::*;

fn frame_v4(protocol: u8, length: u16) -> Vec<u8> {
    let mut frame = vec![0; 14 + usize::from(length)];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22] = 64;
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&[198, 51, 100, 7]);
    frame[30..34].copy_from_slice(&[192, 0, 2, 10]);
    frame[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    frame
}

fn frame_v6(next_header: u8, length: u16) -> Vec<u8> {
    let mut frame = vec![0; 54 + usize::from(length)];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = next_header;
    frame[21] = 64;
    frame[22] = 0x20;
    frame[37] = 7;
    frame[38] = 0x20;
    frame[53] = 0x10;
    frame[54..58].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    frame
}

fn v4(frame: &mut [u8]) -> Result<Flow, Odd> {
    let mut flow = Flow::NONE;
    V4::decode(Packet::from_slice(frame), &mut flow).map(|()| flow)
}

fn v6(frame: &mut [u8]) -> Result<Flow, Odd> {
    let mut flow = Flow::NONE;
    V6::decode(Packet::from_slice(frame), &mut flow).map(|()| flow)
}

/// The verdict a VIP gives, `Ok` for a flow, `None` without a destination.
fn end(read: Result<Flow, Odd>) -> Result<(), Option<Verdict>> {
    match read {
        Ok(_) => Ok(()),
        Err(Odd::Unaddressed) => Err(None),
        Err(Odd::Verdict(verdict)) => Err(Some(verdict)),
        Err(Odd::Icmp) => Err(Some(Verdict::PassNoService)),
        Err(Odd::Fragment) => Err(Some(Verdict::DropFragment)),
    }
}

#[test]
fn a_flow_is_read_as_it_lies_in_the_frame() {
    let mut tcp = frame_v4(6, 40);
    tcp[47] = 0x12;
    let flow = v4(&mut tcp).unwrap();
    assert_eq!(flow.key.source[0].to_ne_bytes(), [198, 51, 100, 7]);
    assert_eq!(flow.key.destination[0].to_ne_bytes(), [192, 0, 2, 10]);
    assert_eq!(flow.key.ports, ports(40_000, 80));
    assert_eq!(flow.key.kind, 4 << 16 | 6);
    assert_eq!(flow.tcp_flags, 0x12);
    let flow = v6(&mut frame_v6(17, 8)).unwrap();
    assert_eq!(flow.key.source, [0x20, 0, 0, 7 << 24].map(u32::from_le));
    assert_eq!(flow.key.destination, [0x20, 0, 0, 0x10 << 24].map(u32::from_le));
    assert_eq!((flow.key.ports, flow.key.kind), (ports(40_000, 80), 6 << 16 | 17));
}

#[test]
fn flags_say_what_opens_and_what_closes() {
    let flow = |flags: u8| {
        let mut frame = frame_v4(6, 40);
        frame[47] = flags;
        v4(&mut frame).map(|f| (f.opens(), f.closes(), f.resets())).unwrap()
    };
    assert_eq!(flow(0x02), (true, false, false), "SYN");
    assert_eq!(flow(0xc2), (true, false, false), "SYN, ECE, CWR");
    assert_eq!(flow(0x12), (false, false, false), "SYN, ACK");
    assert_eq!(flow(0x10), (false, false, false), "ACK");
    assert_eq!(flow(0x11), (false, true, false), "FIN, ACK");
    assert_eq!(flow(0x14), (false, true, true), "RST, ACK");
    let udp = v4(&mut frame_v4(17, 28)).unwrap();
    assert_eq!((udp.opens(), udp.closes(), udp.resets()), (true, false, false));
}

#[test]
fn every_length_has_its_verdict() {
    for (protocol, least) in [(6, 20), (17, 8)] {
        let (whole4, whole6) = (34 + least + 5, 54 + least + 5);
        for length in 0..=whole4 {
            let mut frame = frame_v4(protocol, (whole4 - 14) as u16);
            let expected = match length {
                0..34 => Err(None),
                34.. if length < whole4 => Err(Some(Verdict::DropTruncated)),
                _ => Ok(()),
            };
            assert_eq!(end(v4(&mut frame[..length])), expected, "v4 {protocol}, {length} bytes");
        }
        for length in 0..=whole6 {
            let mut frame = frame_v6(protocol, (whole6 - 54) as u16);
            let expected = match length {
                0..54 => Err(None),
                54.. if length < whole6 => Err(Some(Verdict::DropTruncated)),
                _ => Ok(()),
            };
            assert_eq!(end(v6(&mut frame[..length])), expected, "v6 {protocol}, {length} bytes");
        }
    }
}

#[test]
fn odd_ipv4_headers_have_their_verdicts() {
    type Edit = (&'static str, usize, u8, Result<(), Option<Verdict>>);
    let rows: &[Edit] = &[
        ("version 6", 14, 0x65, Err(None)),
        ("header of 16 bytes", 14, 0x44, Err(Some(Verdict::DropMalformed))),
        ("options", 14, 0x46, Err(Some(Verdict::DropOptions))),
        ("more fragments", 20, 0x20, Err(Some(Verdict::DropFragment))),
        ("a later fragment", 21, 1, Err(Some(Verdict::DropFragment))),
        ("do not fragment", 20, 0x40, Ok(())),
        ("the reserved bit", 20, 0x80, Ok(())),
        ("length without a TCP header", 17, 39, Err(Some(Verdict::DropMalformed))),
        ("length of 0", 17, 0, Err(Some(Verdict::DropMalformed))),
        ("length past the frame", 17, 41, Err(Some(Verdict::DropTruncated))),
        ("ICMP", 23, 1, Err(Some(Verdict::PassNoService))),
        ("SCTP", 23, 132, Err(Some(Verdict::PassNoService))),
        ("GRE", 23, 47, Err(Some(Verdict::PassNoService))),
    ];
    for &(what, at, value, expected) in rows {
        let mut frame = frame_v4(6, 40);
        frame[at] = value;
        assert_eq!(end(v4(&mut frame)), expected, "{what}");
    }
}

#[test]
fn ipv6_extension_headers_have_their_verdicts() {
    let drop_extension = Err(Some(Verdict::DropExtension));
    let drop_fragment = Err(Some(Verdict::DropFragment));
    let pass = Err(Some(Verdict::PassNoService));
    for (what, header, first, expected) in [
        ("hop-by-hop", 0, 6, drop_extension),
        ("routing", 43, 6, drop_extension),
        ("destination options", 60, 6, drop_extension),
        ("authentication", 51, 6, drop_extension),
        ("mobility", 135, 59, drop_extension),
        ("fragment of TCP", 44, 6, drop_fragment),
        ("fragment of UDP", 44, 17, drop_fragment),
        ("fragment behind another header", 44, 0, drop_extension),
        ("fragment of ICMPv6", 44, 58, pass),
        ("ICMPv6", 58, 128, pass),
        ("ESP", 50, 0, pass),
        ("no next header", 59, 0, pass),
    ] {
        let mut frame = frame_v6(header, 20);
        frame[54] = first;
        assert_eq!(end(v6(&mut frame)), expected, "{what}");
    }
    let mut cut = frame_v6(44, 20);
    let truncated = Err(Some(Verdict::DropTruncated));
    assert_eq!(end(v6(&mut cut[..54])), truncated, "a fragment header cut off");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_fault(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120), four: bool,
    ) {
        if let Some(version) = bytes.get_mut(14) {
            *version = if four { 0x45 } else { 0x60 };
        }
        let before = bytes.clone();
        let read = if four { v4(&mut bytes) } else { v6(&mut bytes) };
        prop_assert_eq!(&bytes, &before);
        if read.is_ok() {
            prop_assert!(bytes.len() >= 42);
        }
    }
}
