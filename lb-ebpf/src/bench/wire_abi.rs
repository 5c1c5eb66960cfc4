//! What the programs of the benchmark `wire` and the process that runs them share.

/// Words of a frame that are written anew for each packet: all headers, of either family.
pub(crate) const WORDS: usize = 20;
/// Bytes of an IPv4 frame: TCP with 10 bytes of payload.
pub(crate) const FRAME4: usize = 14 + 20 + SEGMENT;
/// Bytes of an IPv6 frame.
pub(crate) const FRAME6: usize = 14 + 40 + SEGMENT;
/// Bytes of a TCP segment.
pub(crate) const SEGMENT: usize = 30;
/// In the acknowledgement number; it is how the far end knows its packets.
pub(crate) const MAGIC: u32 = 0x0b07_5eed;
/// The same in packets that carry the time they were sent at.
pub(crate) const STAMPED: u32 = MAGIC + 1;
/// Bytes of the segment before that time.
pub(crate) const STAMP_AT: usize = 22;
/// Source port of the first 65,536 flows; the next have the next.
pub(crate) const FIRST_PORT: u16 = 0x2000;
/// Most flows.
pub(crate) const FLOWS: u32 = 1 << 20;

/// Index of the load's job, and of the probes'.
pub(crate) const LOAD: u32 = 0;
/// As above.
pub(crate) const PROBE: u32 = 1;

/// What to send.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// The frame of a flow number 0, from its first byte on.
    pub(crate) words: [u32; WORDS],
    /// Flows less one; a power of two less one.
    pub(crate) flow_mask: u32,
    /// 0 or [`IPV6`] or [`DROP`] or [`STAMP`], or several.
    pub(crate) flags: u32,
    /// From a burst of [`BURST`] frames to the next; 0 is no pause.
    pub(crate) gap_ns: u64,
}

/// The frame is IPv6.
pub(crate) const IPV6: u32 = 1;
/// Made, but not sent: what making frames costs.
pub(crate) const DROP: u32 = 2;
/// With the time in it.
pub(crate) const STAMP: u32 = 4;
/// Frames sent without a pause.
pub(crate) const BURST: u64 = 64;

/// What must arrive.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Expect {
    /// 0 or [`SAME_SOURCE`] or [`TO_VIP`] or [`TO_BACKEND`] or [`DEEP`], or several.
    pub(crate) flags: u32,
    /// Last two bytes of the VIP, as they lie in memory.
    pub(crate) vip: u32,
    /// Of the pass that finds which backend each flow has; 1 to 255.
    pub(crate) pass: u32,
    /// All zeroes.
    pub(crate) padding: u32,
}

/// Source address and port are as sent.
pub(crate) const SAME_SOURCE: u32 = 1;
/// The destination is the VIP.
pub(crate) const TO_VIP: u32 = 2;
/// The destination is the backend's that the MAC address names.
pub(crate) const TO_BACKEND: u32 = 4;
/// All checksums are right, and each flow has one backend.
pub(crate) const DEEP: u32 = 8;

/// The first four bytes of all MAC addresses here; then 0xbb and the number of the backend.
pub(crate) const MAC: [u8; 5] = [2, 0, 0, 0, 0xbb];
/// The last byte of the address of backend 0.
pub(crate) const FIRST_ADDRESS: u8 = 11;

/// Counters: one for each of 64 numbers in MAC addresses, and these.
pub(crate) const COUNTERS: u32 = 72;
/// No MAC address of ours.
pub(crate) const WRONG_MAC: u32 = 64;
/// Source or destination is not what it should be.
pub(crate) const WRONG_ADDRESS: u32 = 65;
/// A checksum is wrong.
pub(crate) const WRONG_CHECKSUM: u32 = 66;
/// A flow that had another backend before.
pub(crate) const WRONG_BACKEND: u32 = 67;
/// Probes; they are counted nowhere else.
pub(crate) const PROBES: u32 = 68;

/// How long probes took, in buckets of 64 ns.
pub(crate) const BUCKET_SHIFT: u32 = 6;
/// The last one has all longer times.
pub(crate) const BUCKETS: u32 = 8192;
