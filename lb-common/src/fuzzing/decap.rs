//! Tunnels opened: [`crate::decap::run`] on any frame.
//!
//! Input: whom to believe (a bit for each family), one byte for [`mend`](super::bytes::mend), a
//! frame. What is inside is mended before what is outside.

use super::bytes::{Input, be16, mend, sums, untagged};
use super::guarded::Guarded;
use crate::abi::Address;
use crate::decap::{DecapMaps, VERDICTS, run};
use crate::verdict::{Kind, Verdict};

/// Sources believed by family, and the usual port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Believe {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl DecapMaps for Believe {
    fn gue_port(&self) -> u32 {
        6080
    }

    fn allowed(&self, family: u32, _: &Address) -> bool {
        if family == 4 { self.v4 } else { self.v6 }
    }
}

/// What `lb decap` makes of any bytes.
pub fn decap(input: &[u8]) {
    let mut input = Input(input);
    let whom = input.byte();
    let believe = Believe { v4: whom & 1 == 0, v6: whom & 2 == 0 };
    let mut bytes = input.frame();
    mend_inside(&mut bytes, whom >> 2);
    let mut frame = Guarded::new(&bytes);
    let verdict = run(&believe, &mut frame);
    assert!(VERDICTS.contains(&verdict), "{verdict:?}");
    assert_ne!(verdict, Verdict::DropInternal, "there is room for a tag");
    match verdict {
        Verdict::PassDecapsulated => taken_out(&bytes, frame.bytes(), believe),
        other if other.kind() == Kind::Pass => assert_eq!(frame.bytes(), bytes),
        // It is gone: only that nothing else was written.
        _ => assert!(frame.bytes().len() <= bytes.len()),
    }
}

/// Bytes between the Ethernet header and the packet in a tunnel that this frame looks like.
fn headers(frame: &[u8]) -> Option<usize> {
    let (protocol, header) = match be16(frame, 12) {
        0x0800 => (*frame.get(23)?, 20),
        0x86dd => (*frame.get(20)?, 40),
        _ => return None,
    };
    Some(match (protocol, frame.get(14 + header + 8)) {
        (17, Some(first)) if matches!(first >> 4, 4 | 6) => header + 8,
        (17, Some(_)) => header + 12,
        _ => header,
    })
}

fn mend_inside(frame: &mut [u8], how: u8) {
    let (tag, plain) = untagged(frame);
    let at = if tag.is_some() { 4 } else { 0 };
    // From as far in front of the packet as an Ethernet header is long: which is not looked at,
    // unless it seems to be a tag.
    let Some(at) = headers(&plain).map(|headers| at + headers) else { return };
    if let Some(inner) = frame.get_mut(at..)
        && !matches!(be16(inner, 12), 0x8100 | 0x88a8)
    {
        mend(inner, how);
    }
}

fn taken_out(before: &[u8], after: &[u8], believe: Believe) {
    let ((tag_before, before), (tag, after)) = (untagged(before), untagged(after));
    assert_eq!(tag, tag_before);
    assert_eq!(after[..12], before[..12], "its MAC addresses stay");
    let believed = if be16(&before, 12) == 0x0800 { believe.v4 } else { believe.v6 };
    assert!(believed);
    let headers = headers(&before).unwrap();
    assert_eq!(before.len() - after.len(), headers);
    let inner = &before[14 + headers..];
    let is_v4 = be16(&after, 12) == 0x0800;
    assert_eq!(inner[0] >> 4, if is_v4 { 4 } else { 6 });
    let class = |packet: &[u8]| (be16(packet, 0) >> if is_v4 { 0 } else { 4 }) as u8 & 3;
    let outer = if be16(&before, 12) == 0x0800 { before[15] } else { before[15] >> 4 } & 3;
    assert_eq!(Some(class(&after[14..])), ecn(class(inner), outer));
    // All else is as it was: but for those bits, and the checksum that covers them.
    let mut expected = inner.to_vec();
    expected[1] = after[15];
    if is_v4 {
        expected[10..12].copy_from_slice(&after[24..26]);
        assert_eq!(inner[1] & !3, after[15] & !3);
        let framed = [&[0; 14], inner].concat();
        assert_eq!(sums(&framed).header, sums(&after).header);
    } else {
        assert_eq!(inner[1] & !0x30, after[15] & !0x30);
    }
    assert_eq!(after[14..], expected);
}

/// RFC 6040, figure 4, by row; `None` is a drop.
fn ecn(inner: u8, outer: u8) -> Option<u8> {
    const NOT: Option<u8> = Some(0);
    const ECT1: Option<u8> = Some(1);
    const ECT0: Option<u8> = Some(2);
    const CE: Option<u8> = Some(3);
    // Columns: Not-ECT, ECT(1), ECT(0), CE.
    [[NOT, NOT, NOT, None], [ECT1, ECT1, ECT1, CE], [ECT0, ECT1, ECT0, CE], [CE, CE, CE, CE]]
        [usize::from(inner)][usize::from(outer)]
}
