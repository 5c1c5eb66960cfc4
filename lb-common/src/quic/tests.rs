//! Datagrams and where they go, in both families, at every length, and of any bytes.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

/// One datagram to the VIP, in each family.
fn frames(payload: &[u8]) -> [Vec<u8>; 2] {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frames = [Vec::new(), Vec::new()];
    let v4 = ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64).udp(50_000, 443);
    v4.write(&mut frames[0], payload).unwrap();
    let v6 = ethernet().ipv6([0x20; 16], [0x21; 16], 64).udp(50_000, 443);
    v6.write(&mut frames[1], payload).unwrap();
    frames
}

/// Where both families send it, which must agree.
fn to(payload: &[u8], config: u32) -> Quic {
    let [mut v4, mut v6] = frames(payload);
    let [before4, before6] = [v4.clone(), v6.clone()];
    let quic = route::<V4>(Packet::from_slice(&mut v4), config);
    assert_eq!(quic, route::<V6>(Packet::from_slice(&mut v6), config));
    assert_eq!((v4, v6), (before4, before6), "nothing is written");
    quic
}

/// A packet with a long header and room to spare.
fn long(version: u32, kind: u8, id: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0 | kind << 4];
    packet.extend(version.to_be_bytes());
    packet.push(id.len() as u8);
    packet.extend(id);
    packet.push(0);
    packet.resize(64, 0xee);
    packet
}

fn short(first: u8, id: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(id);
    packet.resize(64, 0xee);
    packet
}

/// The id as the daemon writes it.
fn server(id: &[u8]) -> Quic {
    let mut bytes = [0; 8];
    bytes[..id.len()].copy_from_slice(id);
    Quic::Server(u64::from_ne_bytes(bytes))
}

#[test]
fn a_long_header_is_routed_by_its_version_and_type() {
    let id = [0x40 | 9, 0x12, 0x34, 9, 9, 9, 9, 9, 9, 9];
    let config = config(2, 2);
    let named = server(&[0x12, 0x34]);
    let cases = [
        (VERSION_1, 0, Quic::New),
        (VERSION_1, 1, Quic::New),
        (VERSION_1, 2, named),
        (VERSION_1, 3, Quic::Hash),
        (VERSION_2, 1, Quic::New),
        (VERSION_2, 2, Quic::New),
        (VERSION_2, 3, named),
        (VERSION_2, 0, Quic::Hash),
    ];
    for (version, kind, expected) in cases {
        assert_eq!(to(&long(version, kind, &id), config), expected, "{version:#x}, type {kind}");
    }
    for version in [0, 2, 0xff00_001d, 0x0100_0000, 0x0a0a_0a0a] {
        for kind in 0..4 {
            assert_eq!(to(&long(version, kind, &id), config), Quic::New, "{version:#x}");
        }
    }
}

#[test]
fn the_server_id_is_read_as_it_lies() {
    let bytes = [0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18];
    for length in 1..=8 {
        for id in 0..7 {
            let mut cid = vec![(id << 5 | 0x1f) as u8];
            cid.extend(bytes);
            let config = config(id, length);
            let named = server(&bytes[..length as usize]);
            assert_eq!(to(&long(VERSION_1, 2, &cid), config), named);
            // Key phase, spin bit and the rest are nobody's business, nor is the fixed bit
            // (RFC 9287).
            for first in [0x40, 0x7f, 0x00, 0x3f] {
                assert_eq!(to(&short(first, &cid), config), named, "{first:#x}");
            }
        }
    }
}

#[test]
fn the_drafts_test_vector_is_read() {
    // draft-ietf-quic-load-balancers-21, "Unencrypted CIDs", the first.
    let cid = [0x07, 0xc4, 0x60, 0x5e, 0x45, 0x04, 0xcc, 0x4f];
    assert_eq!(to(&short(0x40, &cid), config(0, 3)), server(&[0xc4, 0x60, 0x5e]));
}

#[test]
fn what_names_no_server_is_hashed() {
    let cid = [0x20, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let both = |config: u32| {
        let quic = to(&short(0x40, &cid), config);
        assert_eq!(to(&long(VERSION_1, 2, &cid), config), quic, "{config:#x}");
        quic
    };
    assert_eq!(both(config(1, 4)), server(&[1, 2, 3, 4]));
    assert_eq!(both(config(2, 4)), Quic::Hash, "another configuration");
    assert_eq!(both(config(1, 0)), Quic::Hash, "no length");
    assert_eq!(both(config(1, 9)), Quic::Hash, "longer than the map's key");
    assert_eq!(both(config(1, 255)), Quic::Hash);
    // Not even if the service is configured so.
    let unroutable = [0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(to(&short(0x40, &unroutable), config(7, 4)), Quic::Hash);
    assert_eq!(to(&short(0x40, &unroutable), config(1, 4)), Quic::Hash);
}

#[test]
fn an_id_too_short_for_its_server_id_is_hashed() {
    let cid = [0x20, 1, 2, 3, 4, 5, 6, 7, 8];
    for server_id in 1..=8 {
        for length in 0..=cid.len() {
            let quic = to(&long(VERSION_1, 2, &cid[..length]), config(1, server_id));
            let fits = length > server_id as usize;
            let expected = if fits { server(&cid[1..=server_id as usize]) } else { Quic::Hash };
            assert_eq!(quic, expected, "{server_id} of {length}");
        }
    }
}

#[test]
fn a_datagram_too_short_for_quic_is_hashed_padded_or_not() {
    let packet = short(0x40, &[0x20, 1, 2, 3, 4, 5, 6, 7, 8]);
    for length in 0..packet.len() {
        let quic = to(&packet[..length], config(1, 4));
        let expected = if length < 16 { Quic::Hash } else { server(&[1, 2, 3, 4]) };
        assert_eq!(quic, expected, "{length}");
        let [mut v4, mut v6] = frames(&packet[..length]);
        v4.resize(v4.len() + 32, 0x20);
        v6.resize(v6.len() + 32, 0x20);
        assert_eq!(route::<V4>(Packet::from_slice(&mut v4), config(1, 4)), expected);
        assert_eq!(route::<V6>(Packet::from_slice(&mut v6), config(1, 4)), expected);
    }
    // A frame cut short, whatever its headers say.
    for at in 0..2 {
        let whole = frames(&packet)[at].clone();
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            let packet = Packet::from_slice(&mut cut);
            let (quic, first) = match at {
                0 => (route::<V4>(packet, config(1, 4)), 42),
                _ => (route::<V6>(packet, config(1, 4)), 62),
            };
            let expected = if length < first + 16 { Quic::Hash } else { server(&[1, 2, 3, 4]) };
            assert_eq!(quic, expected, "{length}");
        }
    }
}

/// The same by the words of the RFCs, on a slice.
fn by_the_book(payload: &[u8], config: u32) -> Quic {
    if payload.len() < 16 {
        return Quic::Hash;
    }
    let length = (config >> 8 & 0xff) as usize;
    let cid = if payload[0] & 0x80 == 0 {
        &payload[1..]
    } else {
        let version = u32::from_be_bytes(payload[1..5].try_into().unwrap());
        let types = match version {
            1 => ["initial", "0-rtt", "handshake", "retry"],
            0x6b33_43cf => ["retry", "initial", "0-rtt", "handshake"],
            _ => return Quic::New,
        };
        match types[usize::from(payload[0] >> 4 & 3)] {
            "handshake" => {}
            "retry" => return Quic::Hash,
            _ => return Quic::New,
        }
        let cid = &payload[6..];
        if usize::from(payload[5]) < 1 + length {
            return Quic::Hash;
        }
        cid
    };
    let id = u32::from(cid[0] >> 5);
    if id != config & 7 || id == 7 || length == 0 || length > 8 {
        return Quic::Hash;
    }
    server(&cid[1..=length])
}

proptest! {
    #[test]
    fn any_datagram_goes_where_the_rfcs_say(
        first: u8, version in prop_oneof![Just(1u32), Just(VERSION_2), any::<u32>()],
        length in 0u8..24, rest in prop::collection::vec(any::<u8>(), 0..40), id in 0u32..8,
        server_id in 0u32..11,
    ) {
        let mut payload = vec![first];
        payload.extend(version.to_be_bytes());
        payload.push(length);
        payload.extend(rest);
        // Half of the ids name the configuration.
        if let Some(octet) = payload.get_mut(6) && first & 1 == 0 {
            *octet = *octet & 0x1f | (id as u8) << 5;
        }
        let config = config(id, server_id);
        prop_assert_eq!(to(&payload, config), by_the_book(&payload, config));
    }

    #[test]
    fn any_bytes_are_read_within_their_end(
        bytes in prop::collection::vec(any::<u8>(), 0..100), config: u32,
    ) {
        let mut frame = bytes.clone();
        let _ = route::<V4>(Packet::from_slice(&mut frame), config);
        let _ = route::<V6>(Packet::from_slice(&mut frame), config);
        prop_assert_eq!(frame, bytes);
    }
}
