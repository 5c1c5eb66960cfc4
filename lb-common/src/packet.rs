//! A packet, and the one bounds check.
//!
//! A [`Head`] of `N` bytes exists only after those bytes were compared with the packet's end, and
//! its fields are read at offsets checked against `N` when the program is compiled. Nothing else
//! in this crate touches packet memory.

use core::marker::PhantomData;

/// The bytes of one Ethernet frame, from the destination MAC address to its end.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    start: usize,
    end: usize,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> Packet<'a> {
    /// The frame in a buffer.
    #[must_use]
    pub fn from_slice(bytes: &'a mut [u8]) -> Self {
        let range = bytes.as_mut_ptr_range();
        Self { start: range.start as usize, end: range.end as usize, bytes: PhantomData }
    }

    /// The frame between two addresses.
    ///
    /// # Safety
    ///
    /// `start..end` is readable and writable for `'a`, and nobody else writes to it meanwhile.
    #[inline(always)]
    #[must_use]
    pub unsafe fn from_range(start: usize, end: usize) -> Self {
        Self { start, end, bytes: PhantomData }
    }

    /// Bytes in the frame.
    #[inline(always)]
    #[must_use]
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether the frame has no bytes at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The first `N` bytes, if the frame has that many.
    #[inline(always)]
    #[must_use]
    pub fn head<const N: usize>(self) -> Option<Head<'a, N>> {
        // Verifier: the comparison must be of "start + constant" with the end itself; a
        // comparison of lengths gives "invalid access to packet".
        if self.start + N > self.end {
            return None;
        }
        Some(Head { at: self.start as *mut u8, bytes: PhantomData })
    }

    /// The `N` bytes that begin `offset` bytes behind the first `AT`, if the frame has that many.
    /// Only the bits of `MASK`, a power of two less one, count in the offset: what is compared with
    /// a length before is not cut by it.
    #[inline(always)]
    #[must_use]
    pub fn part<const AT: usize, const MASK: u32, const N: usize>(
        self,
        offset: u32,
    ) -> Option<Head<'a, N>> {
        const { assert!((MASK + 1).is_power_of_two() && MASK < 1 << 12, "not a small mask") };
        // Verifier: the sum is made once, and both compared and read through. Made twice, the
        // second one is another pointer to it, of which nothing is known: "invalid access to
        // packet". And it takes the mask, or it is "math between pkt pointer and register with
        // unbounded min value is not allowed", so the compiler must not find it superfluous.
        let start = raw::forward::<MASK>(self.start + AT, offset);
        Self { start, ..self }.head()
    }
}

/// The first `N` bytes of a packet, known to be there.
#[derive(Clone, Copy)]
pub struct Head<'a, const N: usize> {
    at: *mut u8,
    bytes: PhantomData<&'a mut [u8]>,
}

macro_rules! access {
    ($get:ident, $set:ident, $type:ty, $load:ident, $store:ident, $what:literal) => {
        #[doc = concat!("Reads ", $what, " at offset `AT`.")]
        #[inline(always)]
        #[must_use]
        pub fn $get<const AT: usize>(self) -> $type {
            const { assert!(AT + size_of::<$type>() <= N, "the field is not within the head") };
            // SAFETY: the `N` bytes from `at` are the packet's (`Packet::head`), and the field
            // lies within them by the assertion above.
            unsafe { raw::$load::<AT>(self.at) }
        }

        #[doc = concat!("Writes ", $what, " at offset `AT`.")]
        #[inline(always)]
        pub fn $set<const AT: usize>(self, value: $type) {
            const { assert!(AT + size_of::<$type>() <= N, "the field is not within the head") };
            // SAFETY: as for reading; the packet is writable and ours (`Packet::from_range`).
            unsafe { raw::$store::<AT>(self.at, value) }
        }
    };
}

impl<const N: usize> Head<'_, N> {
    access!(u8, set_u8, u8, load_u8, store_u8, "a byte");
    access!(word16, set_word16, u16, load_u16, store_u16, "two bytes as they lie in memory");
    access!(word32, set_word32, u32, load_u32, store_u32, "four bytes as they lie in memory");

    /// Reads a big-endian 16-bit number at offset `AT`.
    #[inline(always)]
    #[must_use]
    pub fn be16<const AT: usize>(self) -> u16 {
        u16::from_be(self.word16::<AT>())
    }

    /// Reads 16 bytes at offset `AT`, as four words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn words<const AT: usize>(self) -> [u32; 4] {
        const { assert!(AT + 16 <= N, "the field is not within the head") };
        // SAFETY: the `N` bytes from `at` are the packet's, and the field lies within them.
        unsafe {
            let at = self.at.add(AT);
            [
                raw::load_u32::<0>(at),
                raw::load_u32::<4>(at),
                raw::load_u32::<8>(at),
                raw::load_u32::<12>(at),
            ]
        }
    }

    /// Writes 16 bytes at offset `AT`.
    #[inline(always)]
    pub fn set_words<const AT: usize>(self, value: [u32; 4]) {
        const { assert!(AT + 16 <= N, "the field is not within the head") };
        // SAFETY: as for reading; the packet is writable and ours.
        unsafe {
            let at = self.at.add(AT);
            raw::store_u32::<0>(at, value[0]);
            raw::store_u32::<4>(at, value[1]);
            raw::store_u32::<8>(at, value[2]);
            raw::store_u32::<12>(at, value[3]);
        }
    }
}

/// Loads and stores of packet memory, which has no alignment.
///
/// On the eBPF target `read_unaligned` becomes byte loads, a quarter more time per packet, while
/// the kernel allows any alignment where the machine does. So there it is one instruction.
#[cfg(target_arch = "bpf")]
mod raw {
    use core::arch::asm;

    macro_rules! instruction {
        ($load:ident, $store:ident, $type:ty, $size:literal) => {
            #[inline(always)]
            pub(super) unsafe fn $load<const AT: usize>(at: *const u8) -> $type {
                let value: u64;
                // SAFETY: the caller's: `AT..AT + size` from `at` is readable.
                unsafe {
                    asm!(concat!("{value} = *(", $size, " *)({at} + {offset})"),
                        value = lateout(reg) value, at = in(reg) at, offset = const AT,
                        options(pure, nostack, readonly, preserves_flags));
                    // Or the compiler clears the upper half once more, wherever it needs 64 bits.
                    // Verifier: what is known of a byte makes other code of the loop over options
                    // ("BPF program is too large").
                    if size_of::<$type>() == 4 {
                        core::hint::assert_unchecked(value <= u64::from(u32::MAX));
                    }
                }
                value as $type
            }

            #[inline(always)]
            pub(super) unsafe fn $store<const AT: usize>(at: *mut u8, value: $type) {
                // SAFETY: the caller's: `AT..AT + size` from `at` is writable.
                unsafe {
                    asm!(concat!("*(", $size, " *)({at} + {offset}) = {value}"),
                        value = in(reg) u64::from(value), at = in(reg) at, offset = const AT,
                        options(nostack, preserves_flags));
                }
            }
        };
    }
    instruction!(load_u8, store_u8, u8, "u8");
    instruction!(load_u16, store_u16, u16, "u16");
    instruction!(load_u32, store_u32, u32, "u32");

    #[inline(always)]
    pub(super) fn forward<const MASK: u32>(start: usize, offset: u32) -> usize {
        let mut at = start;
        // SAFETY: arithmetic of two registers; memory is not touched.
        unsafe {
            asm!("{offset} &= {mask}", "{at} += {offset}",
                at = inout(reg) at, offset = inout(reg) u64::from(offset) => _,
                mask = const MASK, options(nomem, nostack, preserves_flags));
        }
        at
    }
}

#[cfg(not(target_arch = "bpf"))]
mod raw {
    macro_rules! unaligned {
        ($load:ident, $store:ident, $type:ty) => {
            pub(super) unsafe fn $load<const AT: usize>(at: *const u8) -> $type {
                // SAFETY: the caller's: `AT..AT + size` from `at` is readable.
                unsafe { at.add(AT).cast::<$type>().read_unaligned() }
            }

            pub(super) unsafe fn $store<const AT: usize>(at: *mut u8, value: $type) {
                // SAFETY: the caller's: `AT..AT + size` from `at` is writable.
                unsafe { at.add(AT).cast::<$type>().write_unaligned(value) }
            }
        };
    }
    unaligned!(load_u8, store_u8, u8);
    unaligned!(load_u16, store_u16, u16);
    unaligned!(load_u32, store_u32, u32);

    pub(super) const fn forward<const MASK: u32>(start: usize, offset: u32) -> usize {
        start + (offset & MASK) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_exists_only_when_its_bytes_do() {
        let mut bytes = [0u8; 10];
        let packet = Packet::from_slice(&mut bytes);
        assert_eq!(packet.len(), 10);
        assert!(packet.head::<10>().is_some());
        assert!(packet.head::<11>().is_none());
        assert!(Packet::from_slice(&mut []).head::<1>().is_none());
    }

    #[test]
    fn a_part_exists_only_when_its_bytes_do() {
        let mut bytes: Vec<u8> = (0..40).collect();
        let packet = Packet::from_slice(&mut bytes);
        for offset in 0..40 {
            let part = packet.part::<8, 31, 4>(offset).map(|part| part.u8::<0>());
            let expected = 8 + offset % 32;
            assert_eq!(part.map(u32::from), (expected + 4 <= 40).then_some(expected), "{offset}");
        }
        assert!(Packet::from_slice(&mut []).part::<8, 31, 1>(0).is_none());
    }

    #[test]
    fn fields_are_read_and_written_where_they_lie() {
        let mut bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
        let head = Packet::from_slice(&mut bytes).head::<18>().unwrap();
        assert_eq!(head.u8::<17>(), 17);
        assert_eq!(head.be16::<1>(), 0x0102);
        assert_eq!(head.word32::<3>(), u32::from_ne_bytes([3, 4, 5, 6]));
        let words = head.words::<2>();
        head.set_words::<1>(words);
        head.set_word16::<16>(u16::from_ne_bytes([0xaa, 0xbb]));
        assert_eq!(bytes[..3], [0, 2, 3]);
        assert_eq!(bytes[15..], [16, 0xaa, 0xbb]);
    }
}
