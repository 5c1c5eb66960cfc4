//! A frame whose ends can be moved: tunnels add headers, replies to senders cut payload.

use crate::packet::Packet;

/// One Ethernet frame on its way.
pub trait Frame {
    /// Its bytes now. After a move the packet must be asked for anew.
    fn packet(&mut self) -> Packet<'_>;
    /// Moves the first byte: forward takes bytes away, backward (negative) adds bytes of any
    /// content. `None`: not possible, and nothing has changed.
    fn move_head(&mut self, by: i32) -> Option<()>;
    /// Moves the end: negative cuts. `None`: not possible, and nothing has changed.
    fn move_tail(&mut self, by: i32) -> Option<()>;
}

/// A frame in memory, with the headroom that drivers leave (`XDP_PACKET_HEADROOM`).
#[cfg(any(feature = "user", test))]
#[derive(Clone, Debug)]
pub struct HostFrame {
    bytes: Vec<u8>,
    start: usize,
}

#[cfg(any(feature = "user", test))]
impl HostFrame {
    /// Bytes that can be added in front.
    pub const HEADROOM: usize = 256;

    /// A frame of these bytes. The headroom is poisoned: nobody may rely on zeroes there.
    #[must_use]
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![0xff; Self::HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, start: Self::HEADROOM }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

#[cfg(any(feature = "user", test))]
impl Frame for HostFrame {
    fn packet(&mut self) -> Packet<'_> {
        Packet::from_slice(self.bytes.get_mut(self.start..).unwrap_or_default())
    }

    fn move_head(&mut self, by: i32) -> Option<()> {
        let start = self.start.checked_add_signed(by as isize)?;
        // As in the kernel: an Ethernet header must be left.
        (start + 14 <= self.bytes.len()).then(|| self.start = start)
    }

    fn move_tail(&mut self, by: i32) -> Option<()> {
        let end = self.bytes.len().checked_add_signed(by as isize)?;
        let fits = by <= 0 && end >= self.start + 14;
        fits.then(|| self.bytes.truncate(end))
    }
}
