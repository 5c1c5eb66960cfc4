//! Inputs taken apart, and packets read, mended and summed by the RFCs alone.

/// An input, read from its front; zeroes when it ends.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// As many bytes as there are, at most `n`.
    pub(super) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The rest, as a frame: mended as far as the first byte says ([`mend`]).
    pub(super) fn frame(&mut self) -> Vec<u8> {
        let how = self.byte();
        let mut frame = self.take(MAX_FRAME).to_vec();
        mend(&mut frame, how);
        frame
    }
}

/// The longest frame of an input: one of a usual MTU, with two tags.
pub(super) const MAX_FRAME: usize = 1522;

/// [`mend`]: lengths in IP and UDP headers become the frame's.
pub(super) const LENGTHS: u8 = 1;
/// [`mend`]: checksums become right.
pub(super) const CHECKSUMS: u8 = 2;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// The one's-complement sum of texts, each padded to words. All ones stand for zero, too.
pub(super) fn sum(texts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for text in texts {
        for word in text.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
        }
    }
    match sum % 0xffff {
        0 => 0xffff,
        sum => sum as u16,
    }
}

/// The tag of a frame, of 802.1Q or 802.1ad, and the frame without.
pub(super) fn untagged(frame: &[u8]) -> (Option<[u8; 4]>, Vec<u8>) {
    let has_tag = frame.len() >= 18 && matches!(be16(frame, 12), 0x8100 | 0x88a8);
    if !has_tag || matches!(be16(frame, 16), 0x8100 | 0x88a8) {
        return (None, frame.to_vec());
    }
    let tag = [frame[12], frame[13], frame[14], frame[15]];
    (Some(tag), [&frame[..12], &frame[16..]].concat())
}

/// An IP packet without options and extension headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub(super) header: &'a [u8],
    pub(super) protocol: u8,
    pub(super) hops: u8,
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
    /// Neither the first part of a packet nor a later one.
    pub(super) whole: bool,
    /// Bytes behind the header, by the header.
    pub(super) length: usize,
    /// Those that are there.
    pub(super) payload: &'a [u8],
}

/// The packet at the beginning of some bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<Ip<'_>> {
    let (header, rest) = match bytes.first()? {
        0x45 => bytes.split_at_checked(20)?,
        first if first >> 4 == 6 => bytes.split_at_checked(40)?,
        _ => return None,
    };
    let (protocol, hops, addresses, whole, length) = if header.len() == 20 {
        // Of a quoted one it may be anything.
        let length = usize::from(be16(header, 2)).saturating_sub(20);
        (header[9], header[8], &header[12..], be16(header, 6) & 0x3fff == 0, length)
    } else {
        (header[6], header[7], &header[8..], true, usize::from(be16(header, 4)))
    };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let payload = &rest[..length.min(rest.len())];
    Some(Ip { header, protocol, hops, source, destination, whole, length, payload })
}

impl Ip<'_> {
    pub(super) fn is_v4(&self) -> bool {
        self.header.len() == 20
    }

    /// Where the checksum is behind the header; `None` if none is there.
    fn checksum_at(&self) -> Option<usize> {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP if self.is_v4() => 2,
            ICMP6 if !self.is_v4() => 2,
            _ => return None,
        };
        (at + 2 <= self.payload.len()).then_some(at)
    }

    /// Sum of all that the transport's checksum covers, and of it.
    fn transport(&self) -> Option<u16> {
        let at = self.checksum_at()?;
        let (length, covered) = match self.protocol {
            UDP => {
                let length = usize::from(be16(self.payload, 4));
                if length < 8 || length > self.length || be16(self.payload, at) == 0 {
                    return None;
                }
                (length, &self.payload[..length.min(self.payload.len())])
            }
            _ => (self.length, self.payload),
        };
        if self.protocol == ICMP {
            return Some(sum(&[covered]));
        }
        let pseudo = (length as u32).to_be_bytes();
        Some(sum(&[self.source, self.destination, &pseudo, &[0, self.protocol], covered]))
    }

    /// The packet that an ICMP error quotes, as far as it is there.
    pub(super) fn quoted(&self) -> Option<Ip<'_>> {
        let is_error = match (self.protocol, self.payload.first()?) {
            (ICMP, kind) => self.is_v4() && matches!(kind, 3 | 4 | 11 | 12),
            (ICMP6, kind) => !self.is_v4() && matches!(kind, 1..=4),
            _ => false,
        };
        let quoted = ip(self.payload.get(8..)?).filter(|_| is_error && self.whole)?;
        (quoted.is_v4() == self.is_v4()).then_some(quoted)
    }
}

/// Sums over what each checksum of a packet covers, it included: all ones if it is right. What
/// changes a packet changes none of them, so that damage stays damage, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) header: Option<u16>,
    pub(super) transport: Option<u16>,
    pub(super) quoted_header: Option<u16>,
    pub(super) quoted_transport: Option<u16>,
}

/// Of a packet without tag.
pub(super) fn sums(frame: &[u8]) -> Sums {
    let Some(ip) = frame.get(14..).and_then(ip) else { return Sums::default() };
    let header = |ip: &Ip<'_>| ip.is_v4().then(|| sum(&[ip.header]));
    let is_there = ip.whole && ip.length == ip.payload.len();
    let quoted = ip.quoted().filter(|_| is_there);
    Sums {
        header: header(&ip),
        transport: ip.transport().filter(|_| is_there),
        quoted_header: quoted.as_ref().and_then(header),
        quoted_transport: quoted.and_then(|quoted| quoted.transport()),
    }
}

impl Sums {
    /// Whether nothing that is there is wrong.
    pub(super) fn are_right(&self) -> bool {
        let all = [self.header, self.transport, self.quoted_header, self.quoted_transport];
        all.into_iter().flatten().all(|sum| sum == 0xffff)
    }
}

/// Makes lengths and checksums of a frame right: of any bytes a packet that gets far.
pub(super) fn mend(frame: &mut [u8], how: u8) {
    let start = if matches!(be16(frame, 12), 0x8100 | 0x88a8) { 18 } else { 14 };
    let Some(packet) = frame.get_mut(start..) else { return };
    let header = match packet.first() {
        Some(0x45) if packet.len() >= 20 => 20,
        Some(first) if first >> 4 == 6 && packet.len() >= 40 => 40,
        _ => return,
    };
    let length = packet.len();
    if how & LENGTHS != 0 {
        let (at, told) = if header == 20 { (2, length) } else { (4, length - 40) };
        packet[at..at + 2].copy_from_slice(&(told as u16).to_be_bytes());
        if packet[if header == 20 { 9 } else { 6 }] == UDP && length >= header + 8 {
            let told = (length - header) as u16;
            packet[header + 4..header + 6].copy_from_slice(&told.to_be_bytes());
        }
    }
    if how & CHECKSUMS == 0 {
        return;
    }
    if header == 20 {
        packet[10..12].fill(0);
        let right = !sum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&right.to_be_bytes());
    }
    let Some(at) = ip(packet).and_then(|ip| ip.checksum_at()) else { return };
    let at = header + at;
    // Not zero, which says of a datagram that there is none.
    packet[at..at + 2].copy_from_slice(&[0, 1]);
    let Some(with_one) = ip(packet).and_then(|ip| ip.transport()) else { return };
    let right = sum(&[&(!with_one).to_be_bytes(), &[0, 1]]);
    packet[at..at + 2].copy_from_slice(&right.to_be_bytes());
}
