//! The hashes: of flows, of service keys, of backend names.
//!
//! Which backend a flow goes to follows from these alone, so two nodes (and two versions) that
//! share flows must agree on every bit: the tests hold frozen values. All mixing ends in
//! `fmix64` of MurmurHash3 (Austin Appleby, public domain), whose avalanche is complete; words
//! of a packet are taken as little-endian.

use crate::abi::{Address, FlowKey};

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const K3: u64 = 0xd6e8_feb8_6659_fd93;
const K4: u64 = 0xa076_1d64_78bd_642f;
const K5: u64 = 0xe703_7ed1_a0b4_28db;

/// MurmurHash3's 64-bit finalizer, a bijection.
#[inline(always)]
#[must_use]
pub const fn fmix64(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Hash of an IPv4 flow: both addresses, both ports and the protocol.
#[inline(always)]
#[must_use]
pub const fn flow_v4(seed: u64, key: &FlowKey) -> u64 {
    let addresses =
        u32::from_le(key.source[0]) as u64 | (u32::from_le(key.destination[0]) as u64) << 32;
    flow_tail((addresses ^ seed).wrapping_mul(K1), key)
}

/// Hash of an IPv6 flow: both addresses, both ports and the protocol.
#[inline(always)]
#[must_use]
pub const fn flow_v6(seed: u64, key: &FlowKey) -> u64 {
    let h = absorb(absorb(seed, &key.source), &key.destination);
    flow_tail(h, key)
}

#[inline(always)]
const fn flow_tail(h: u64, key: &FlowKey) -> u64 {
    fmix64(h ^ (u32::from_le(key.ports) as u64 | ((key.kind as u64) << 32)))
}

/// Mixes an address into a running state. The shift brings what a multiplication moved up back
/// down, so that equal differences in two words do not cancel.
#[inline(always)]
const fn absorb(h: u64, address: &Address) -> u64 {
    let low = u32::from_le(address[0]) as u64 | (u32::from_le(address[1]) as u64) << 32;
    let high = u32::from_le(address[2]) as u64 | (u32::from_le(address[3]) as u64) << 32;
    let h = (h ^ low).wrapping_mul(K1);
    let h = ((h ^ h >> 32) ^ high).wrapping_mul(K2);
    h ^ h >> 32
}

/// The hash of step `step` of the re-hash walk; step 0 is the flow's own.
#[inline(always)]
#[must_use]
pub const fn step(hash: u64, step: u32) -> u64 {
    if step == 0 { hash } else { fmix64(hash.wrapping_add((step as u64).wrapping_mul(K1))) }
}

/// Maps a hash onto `0..n` by its upper half (Lemire, "fast alternative to the modulo").
#[inline(always)]
#[must_use]
pub const fn fast_range(hash: u64, n: u32) -> u32 {
    (((hash >> 32) * n as u64) >> 32) as u32
}

/// The bits of a hash that a share is compared with; independent of [`fast_range`]'s.
#[inline(always)]
#[must_use]
pub const fn share_bits(hash: u64) -> u16 {
    hash as u16
}

/// Where a service key's search begins, before masking. Services are the operator's, so there is
/// no secret in it; products that do not wait for each other are the fastest that spreads well.
#[inline(always)]
#[must_use]
pub const fn service_v4(address: u32, key: u32) -> u32 {
    (product(address, K1).wrapping_add(product(key, K2)) >> 32) as u32
}

/// Where a service key's search begins, before masking.
#[inline(always)]
#[must_use]
pub const fn service_v6(address: &Address, key: u32) -> u32 {
    let [a, b, c, d] = *address;
    let high = product(a, K3).wrapping_add(product(b, K4));
    let low = product(c, K5).wrapping_add(product(d, K1));
    (high.wrapping_add(low).wrapping_add(product(key, K2)) >> 32) as u32
}

#[inline(always)]
const fn product(word: u32, factor: u64) -> u64 {
    (u32::from_le(word) as u64).wrapping_mul(factor)
}

/// Hash of a backend's name, for its Maglev permutation.
#[must_use]
pub fn name(seed: u64, name: &[u8]) -> u64 {
    let mut h = fmix64(seed ^ name.len() as u64);
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        h = fmix64((h ^ u64::from_le_bytes(word)).wrapping_mul(K2));
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::join_ports;

    fn key_v4(source: u32, port: u16) -> FlowKey {
        FlowKey {
            source: [source.to_be(), 0, 0, 0],
            destination: [0x0a00_0201u32.to_be(), 0, 0, 0],
            ports: join_ports(port.to_be(), 80u16.to_be()),
            kind: FlowKey::kind_of(4, 6),
        }
    }

    fn key_v6(low: u32, high: u32, port: u16) -> FlowKey {
        FlowKey {
            source: [0x2001_0db8u32.to_be(), high.to_be(), 0, low.to_be()],
            destination: [0x2001_0db8u32.to_be(), 0, 0, 0x10u32.to_be()],
            ports: join_ports(port.to_be(), 80u16.to_be()),
            kind: FlowKey::kind_of(6, 6),
        }
    }

    /// Patterns real traffic has, each of 65,536 flows.
    fn patterns() -> Vec<(&'static str, Vec<u64>)> {
        let all = 0..65_536u32;
        let v4 = |f: &dyn Fn(u32) -> FlowKey| all.clone().map(|i| flow_v4(7, &f(i))).collect();
        let v6 = |f: &dyn Fn(u32) -> FlowKey| all.clone().map(|i| flow_v6(7, &f(i))).collect();
        vec![
            ("v4, one client, all ports", v4(&|i| key_v4(0xc633_6401, i as u16))),
            ("v4, sequential clients", v4(&|i| key_v4(0xc633_0000 + i, 40_000))),
            ("v4, one client in each /16", v4(&|i| key_v4(i << 16 | 1, 40_000))),
            ("v4, even ports of 512 clients", v4(&|i| key_v4(i & 511, (i >> 9) as u16 * 2))),
            ("v6, one client, all ports", v6(&|i| key_v6(1, 0, i as u16))),
            ("v6, sequential hosts", v6(&|i| key_v6(i, 0, 40_000))),
            ("v6, one host in each /48", v6(&|i| key_v6(1, i << 16, 40_000))),
            ("v6, host follows network", v6(&|i| key_v6(i, i << 16, 40_000))),
        ]
    }

    /// χ² over 256 cells has mean 255 and deviation 22.6; 370 is 5 deviations off.
    fn assert_uniform(what: &str, cells: impl Iterator<Item = usize>) {
        let mut counts = [0u32; 256];
        let mut n = 0f64;
        for cell in cells {
            counts[cell] += 1;
            n += 1.0;
        }
        let mean = n / 256.0;
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - mean).powi(2) / mean).sum();
        assert!(chi < 370.0, "{what}: χ² = {chi}");
    }

    #[test]
    fn slots_shares_and_steps_are_uniform_and_independent() {
        for (what, hashes) in patterns() {
            assert_uniform(what, hashes.iter().map(|&h| fast_range(h, 256) as usize));
            assert_uniform(what, hashes.iter().map(|&h| usize::from(share_bits(h) >> 8)));
            let both =
                |h: u64| (fast_range(h, 16) * 16) as usize + usize::from(share_bits(h) >> 12);
            assert_uniform(what, hashes.iter().map(|&h| both(h)));
            let steps = |h: u64| (fast_range(h, 16) * 16 + fast_range(step(h, 1), 16)) as usize;
            assert_uniform(what, hashes.iter().map(|&h| steps(h)));
            let shares = |h: u64| {
                usize::from(share_bits(step(h, 1)) >> 12) * 16
                    + usize::from(share_bits(step(h, 2)) >> 12)
            };
            assert_uniform(what, hashes.iter().map(|&h| shares(h)));
        }
    }

    #[test]
    fn every_input_bit_flips_half_of_the_output() {
        for bit in 0..64 {
            let mut flips = 0;
            for i in 0..2_000u32 {
                let mut key = key_v6(i, 3, 4_000);
                let before = flow_v6(1, &key);
                key.source[2 + bit / 32] ^= 1 << (bit % 32);
                flips += (before ^ flow_v6(1, &key)).count_ones();
            }
            let share = f64::from(flips) / (2_000.0 * 64.0);
            assert!((0.48..0.52).contains(&share), "bit {bit}: {share}");
        }
    }

    #[test]
    fn hashes_are_frozen() {
        let v4 = key_v4(0xc633_6407, 40_000);
        let v6 = key_v6(7, 1, 40_000);
        assert_eq!(
            [flow_v4(0, &v4), flow_v4(1, &v4), flow_v6(0, &v6), step(flow_v4(0, &v4), 1)],
            FROZEN_FLOWS
        );
        assert_eq!([name(0, b"web-01"), name(0, b""), name(9, b"a-longer-name")], FROZEN_NAMES);
    }

    const FROZEN_FLOWS: [u64; 4] =
        [6820207303351618592, 996161758284944825, 12854695920017470189, 10155637415448152336];
    const FROZEN_NAMES: [u64; 3] = [5437416592273274804, 0, 2406805561081794505];
}
