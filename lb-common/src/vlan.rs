//! One VLAN tag (IEEE 802.1Q), taken off a frame on its way in and put on again on its way out:
//! in between every header is where it is without.
//!
//! A tag in a variable is the TCI with marks above it: that there is one, and that its EtherType
//! was 802.1ad's. Zero is no tag.

use crate::frame::Frame;
use crate::ip::ether_type;
use crate::verdict::Verdict;

/// The mark of a tag: an untagged frame's is zero, and a tag may be all zero.
pub const TAGGED: u32 = 1 << 16;
/// The tag's EtherType is 802.1ad's (0x88a8), not 802.1Q's.
pub const QINQ: u32 = 1 << 17;

/// The tag of a VLAN id, as a server's record has it: none for 0.
#[inline(always)]
#[must_use]
pub const fn tag(id: u32) -> u32 {
    if id == 0 { 0 } else { id & 0xfff | TAGGED }
}

/// The VLAN id of a tag; 0 of none, and of a tag that has a priority only.
#[inline(always)]
#[must_use]
pub const fn id(tag: u32) -> u32 {
    tag & 0xfff
}

/// Takes the tag off a frame, if it has one, and says which.
///
/// Two tags are the kernel's, and so is what ends within its tag: then the frame is as it was.
#[inline(always)]
pub fn pop<F: Frame>(frame: &mut F) -> Result<u32, Verdict> {
    let Some(head) = frame.packet().head::<14>() else { return Err(Verdict::PassBadHeader) };
    let outer = head.be16::<12>();
    if outer != ether_type::VLAN && outer != ether_type::QINQ {
        return Ok(0);
    }
    let Some(head) = frame.packet().head::<18>() else { return Err(Verdict::PassBadHeader) };
    let inner = head.be16::<16>();
    if inner == ether_type::VLAN || inner == ether_type::QINQ {
        return Err(Verdict::PassVlan);
    }
    let tci = u32::from(head.be16::<14>());
    let addresses = [head.word32::<0>(), head.word32::<4>(), head.word32::<8>()];
    frame.move_head(4).ok_or(Verdict::PassBadHeader)?;
    // The EtherType behind the tag lies where an untagged frame's does now.
    let head = frame.packet().head::<12>().ok_or(Verdict::DropInternal)?;
    head.set_word32::<0>(addresses[0]);
    head.set_word32::<4>(addresses[1]);
    head.set_word32::<8>(addresses[2]);
    let qinq = if outer == ether_type::QINQ { QINQ } else { 0 };
    Ok(tci | TAGGED | qinq)
}

/// Puts a tag on a frame that has none; no tag changes nothing. `None`: there is no room in
/// front, and nothing has changed.
#[inline(always)]
#[must_use]
pub fn push<F: Frame>(frame: &mut F, tag: u32) -> Option<()> {
    if tag & TAGGED == 0 {
        return Some(());
    }
    let head = frame.packet().head::<14>()?;
    let addresses = [head.word32::<0>(), head.word32::<4>(), head.word32::<8>()];
    frame.move_head(-4)?;
    let head = frame.packet().head::<16>()?;
    head.set_word32::<0>(addresses[0]);
    head.set_word32::<4>(addresses[1]);
    head.set_word32::<8>(addresses[2]);
    let outer = if tag & QINQ == 0 { ether_type::VLAN } else { ether_type::QINQ };
    head.set_word32::<12>((u32::from(outer) << 16 | tag & 0xffff).to_be());
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{LinkExtSlice, SlicedPacket};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::HostFrame;
    use crate::samples::{PAYLOADS, Payload, Sample};

    fn tagged(frame: &[u8], ether_type: u16, tci: u16) -> Vec<u8> {
        [&frame[..12], &ether_type.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
    }

    proptest! {
        #[test]
        fn a_tag_comes_off_and_goes_on(
            six: bool, payload in 0..5usize, tci: u16, qinq: bool,
            data in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let family = if six { 6 } else { 4 };
            let plain = Sample { data, ..Sample::new(family, PAYLOADS[payload]) }.frame();
            let ether_type = if qinq { 0x88a8 } else { 0x8100 };
            let bytes = tagged(&plain, ether_type, tci);
            let mut frame = HostFrame::new(&bytes);
            let tag = pop(&mut frame).unwrap();
            prop_assert_eq!(frame.bytes(), plain);
            prop_assert_eq!(tag, u32::from(tci) | TAGGED | if qinq { QINQ } else { 0 });
            prop_assert_eq!(id(tag), u32::from(tci & 0xfff));
            push(&mut frame, tag).unwrap();
            prop_assert_eq!(frame.bytes(), bytes);
        }
    }

    #[test]
    fn a_servers_tag_is_read_by_others() {
        let mut frame = HostFrame::new(&Sample::new(6, Payload::Tcp).frame());
        push(&mut frame, tag(77)).unwrap();
        let packet = SlicedPacket::from_ethernet(frame.bytes()).unwrap();
        let [LinkExtSlice::Vlan(vlan)] = &packet.link_exts[..] else {
            panic!("one tag: {packet:?}")
        };
        assert_eq!(vlan.vlan_identifier().value(), 77);
        assert_eq!(vlan.priority_code_point().value(), 0);
        assert!(packet.transport.is_some());
    }

    #[test]
    fn what_has_no_tag_or_two_stays_as_it_is() {
        let plain = Sample::new(4, Payload::Udp).frame();
        let mut frame = HostFrame::new(&plain);
        assert_eq!(pop(&mut frame), Ok(0));
        assert_eq!(push(&mut frame, tag(0)), Some(()));
        assert_eq!(frame.bytes(), plain);
        for (outer, inner) in
            [(0x8100, 0x8100), (0x88a8, 0x8100), (0x8100, 0x88a8), (0x88a8, 0x88a8)]
        {
            let bytes = tagged(&tagged(&plain, inner, 5), outer, 6);
            let mut frame = HostFrame::new(&bytes);
            assert_eq!(pop(&mut frame), Err(Verdict::PassVlan));
            assert_eq!(frame.bytes(), bytes);
        }
    }

    #[test]
    fn short_frames_and_short_headroom_change_nothing() {
        let bytes = tagged(&Sample::new(4, Payload::Udp).frame(), 0x8100, 9);
        for length in 0..18 {
            let mut frame = HostFrame::new(&bytes[..length]);
            assert_eq!(pop(&mut frame), Err(Verdict::PassBadHeader), "{length}");
            assert_eq!(frame.bytes(), &bytes[..length]);
        }
        let mut frame = HostFrame::new(&bytes);
        frame.move_head(-(HostFrame::HEADROOM as i32)).unwrap();
        let before = frame.bytes().to_vec();
        assert_eq!(push(&mut frame, tag(1)), None);
        assert_eq!(frame.bytes(), before);
    }
}
