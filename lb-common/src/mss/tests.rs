//! SYNs with options in every order, against a walk over slices and sums made anew.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// A segment with these options, padded to whole words by ends of options; one in each family,
/// their checksums computed.
fn frames(flags: u8, options: &[u8]) -> [Vec<u8>; 2] {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut tcp = etherparse::TcpHeader::new(50_000, 443, 0x0102_0304, 1024);
    tcp.syn = flags & SYN != 0;
    tcp.ack = flags & ACK != 0;
    tcp.set_options_raw(options).unwrap();
    let mut frames = [Vec::new(), Vec::new()];
    let v4 = ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64).tcp_header(tcp.clone());
    v4.write(&mut frames[0], b"payload").unwrap();
    let v6 = ethernet().ipv6([0x20; 16], [0x21; 16], 64).tcp_header(tcp);
    v6.write(&mut frames[1], b"payload").unwrap();
    frames
}

/// Clamps both families' frames, which must agree.
fn clamped(frames: &mut [Vec<u8>; 2], limit: u16) -> bool {
    let [v4, v6] = frames;
    let done = clamp::<V4>(Packet::from_slice(v4), limit);
    assert_eq!(clamp::<V6>(Packet::from_slice(v6), limit), done);
    done
}

#[test]
fn the_option_is_found_wherever_it_is() {
    // Options before, and whether they leave it readable.
    let before: [(&[u8], bool); 14] = [
        (&[], true),
        (&[1], true),
        (&[1, 1], true),
        (&[1, 1, 1], true),
        (&[3, 3, 7], true),
        (&[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], true),
        (&[254, 5, 2, 4, 0xff], true),
        (&[1; 36], true),
        (
            &[
                253, 36, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
                9, 9, 9, 9, 9, 9, 9, 9, 9,
            ],
            true,
        ),
        (&[0], false),
        (&[3, 0], false),
        (&[3, 1], false),
        (&[3, 200], false),
        (&[2, 3, 5], false),
    ];
    for (before, readable) in before {
        for flags in [SYN, SYN_ACK, ACK, 0] {
            let with = |mss: u16| {
                let mut options = before.to_vec();
                options.extend([2, 4]);
                options.extend(mss.to_be_bytes());
                frames(flags, &options)
            };
            for (announced, limit) in
                [(1460, 1400), (9000, 1220), (65_535, 0), (1460, 1460), (536, 1400), (257, 256)]
            {
                let lowers = readable && flags & SYN != 0 && announced > limit;
                let mut frames = with(announced);
                assert_eq!(clamped(&mut frames, limit), lowers, "{before:?} {flags:#x}");
                let expected = with(if lowers { limit } else { announced });
                assert_eq!(frames, expected, "{before:?} {announced} {limit}");
            }
        }
    }
}

#[test]
fn an_option_of_another_length_is_left() {
    for length in [0, 1, 2, 3, 5, 6, 255] {
        let mut frames = frames(SYN, &[2, length, 0xff, 0xff, 1, 1, 1, 1]);
        let before = frames.clone();
        assert!(!clamped(&mut frames, 1000), "{length}");
        assert_eq!(frames, before);
    }
}

#[test]
fn what_is_behind_the_header_is_no_option() {
    for (data_offset, is_option) in [(5, false), (6, true), (4, false), (0, false), (15, false)] {
        let mut frames = frames(SYN, &[2, 4, 0xff, 0xff]);
        frames[0][46] = data_offset << 4;
        frames[1][66] = data_offset << 4;
        let before = frames.clone();
        // With 15 the header ends behind the packet.
        assert_eq!(clamped(&mut frames, 1000), is_option, "{data_offset}");
        assert_eq!(frames == before, !is_option);
    }
    // Padding of the frame is none of the segment: the IP length counts.
    let mut frames = frames(SYN, &[2, 4, 0xff, 0xff]);
    frames[0][16..18].copy_from_slice(&43u16.to_be_bytes());
    frames[1][18..20].copy_from_slice(&23u16.to_be_bytes());
    assert!(!clamped(&mut frames, 1000));
}

#[test]
fn a_frame_cut_short_is_left_as_it_is() {
    let options = [1, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0xff, 0xff];
    for (at, first) in [(0, 54), (1, 74)] {
        let whole = frames(SYN, &options)[at].clone();
        for length in 0..=whole.len() {
            let mut bytes = whole.clone();
            let (cut, rest) = bytes.split_at_mut(length);
            let packet = Packet::from_slice(cut);
            let done = if at == 0 { clamp::<V4>(packet, 1000) } else { clamp::<V6>(packet, 1000) };
            assert_eq!(done, length >= first + options.len(), "{length}");
            assert_eq!(rest, &whole[length..]);
            assert_eq!(bytes == whole, !done);
        }
    }
}

/// Where the option's number is in the options, if it is greater than the limit.
fn by_the_book(options: &[u8], limit: u16) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [2, 4, high, low, ..] => {
                return (u16::from_be_bytes([high, low]) > limit).then_some(at + 2);
            }
            [] | [0 | 2, ..] => return None,
            [1, ..] => at += 1,
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
}

proptest! {
    #[test]
    fn any_options_are_walked_as_the_rfc_says(
        pieces in prop::collection::vec(prop_oneof![
            Just(vec![1u8]),
            Just(vec![2, 4, 0x23, 0x28]),
            Just(vec![2, 4, 0x05, 0xb4]),
            Just(vec![3, 3, 7]),
            Just(vec![0u8]),
            prop::collection::vec(any::<u8>(), 1..6),
        ], 0..12),
        limit in 1000u16..9100, flags in prop_oneof![Just(SYN), Just(SYN_ACK)],
    ) {
        let mut options: Vec<u8> = pieces.concat();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let mut lowered = options.clone();
        let found = by_the_book(&options, limit);
        if let Some(at) = found {
            lowered[at..at + 2].copy_from_slice(&limit.to_be_bytes());
        }
        let mut seen = frames(flags, &options);
        prop_assert_eq!(clamped(&mut seen, limit), found.is_some());
        prop_assert_eq!(seen, frames(flags, &lowered));
    }

    #[test]
    fn any_bytes_are_walked_within_their_end(
        mut bytes in prop::collection::vec(any::<u8>(), 0..140), limit: u16, offset: u8, cut: u8,
    ) {
        // Often enough a SYN with options.
        for at in [46, 66] {
            if let Some(byte) = bytes.get_mut(at) { *byte = offset | 0x50; }
            if let Some(byte) = bytes.get_mut(at + 1) { *byte |= SYN; }
        }
        let before = bytes.clone();
        let end = bytes.len() - usize::from(cut).min(bytes.len());
        let _ = clamp::<V4>(Packet::from_slice(&mut bytes[..end]), limit);
        let _ = clamp::<V6>(Packet::from_slice(&mut bytes[..end]), limit);
        prop_assert_eq!(&bytes[end..], &before[end..]);
    }
}
