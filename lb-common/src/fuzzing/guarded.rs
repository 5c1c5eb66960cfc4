//! A frame between guards: whatever is outside of it at the moment is poison, and stays so.

use crate::frame::Frame;
use crate::packet::Packet;

/// A frame in memory with room in front, as drivers leave it.
pub(super) struct Guarded {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

const POISON: u8 = 0xa5;
/// Bytes that the frame never reaches, at both ends.
const GUARD: usize = 64;
/// `XDP_PACKET_HEADROOM`.
const HEADROOM: usize = 256;

impl Guarded {
    pub(super) fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![POISON; GUARD + HEADROOM];
        let start = bytes.len();
        bytes.extend_from_slice(frame);
        let end = bytes.len();
        bytes.resize(end + GUARD, POISON);
        Self { bytes, start, end }
    }

    /// The frame now, if nothing was written beside it.
    pub(super) fn bytes(&self) -> &[u8] {
        let clean = |outside: &[u8]| outside.iter().all(|byte| *byte == POISON);
        assert!(clean(&self.bytes[..self.start]), "written in front of the frame");
        assert!(clean(&self.bytes[self.end..]), "written behind the frame");
        &self.bytes[self.start..self.end]
    }
}

impl Frame for Guarded {
    fn packet(&mut self) -> Packet<'_> {
        Packet::from_slice(&mut self.bytes[self.start..self.end])
    }

    fn move_head(&mut self, by: i32) -> Option<()> {
        let start = self.start.checked_add_signed(by as isize)?;
        // As in the kernel: an Ethernet header must be left.
        if start < GUARD || start + 14 > self.end {
            return None;
        }
        self.bytes();
        self.bytes[self.start.min(start)..start].fill(POISON);
        self.start = start;
        Some(())
    }

    fn move_tail(&mut self, by: i32) -> Option<()> {
        let end = self.end.checked_add_signed(by as isize)?;
        if by > 0 || end < self.start + 14 {
            return None;
        }
        self.bytes();
        self.bytes[end..self.end].fill(POISON);
        self.end = end;
        Some(())
    }
}
