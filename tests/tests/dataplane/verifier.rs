//! What the verifier thinks of the program, with all features and with fewer.

use lb_common::abi::{
    FEATURE_FILTERS, FEATURE_NAT, FEATURE_PREFIXES, FEATURE_QUIC, FEATURE_TUNNEL4, FEATURE_TUNNEL6,
    FEATURES_ALL,
};

use crate::rig::{Rig, Sizes};

/// Well below the kernel's limit of one million.
const MOST: u32 = 500_000;

#[test]
fn the_program_is_verified_with_room_to_spare() {
    let count = |features| {
        let rig = Rig::load(Sizes { features, ..Sizes::default() });
        rig.verified_instructions().expect("kernels since 5.16 tell")
    };
    let all = count(FEATURES_ALL);
    println!("verified instructions: {all} (limit of the kernel 1,000,000, of this test {MOST})");
    assert!(all < MOST, "{all} instructions");
    for (name, feature) in [
        ("nat", FEATURE_NAT),
        ("tunnels over IPv4", FEATURE_TUNNEL4),
        ("tunnels over IPv6", FEATURE_TUNNEL6),
        ("prefixes", FEATURE_PREFIXES),
        ("QUIC", FEATURE_QUIC),
        ("filters", FEATURE_FILTERS),
    ] {
        let (without, alone) = (count(FEATURES_ALL & !feature), count(feature));
        println!("  without {name}: {without}; with nothing else: {alone}");
        assert!(without <= all && alone <= all, "{name} costs nothing where it is not");
    }
    println!("  with none of them: {}", count(0));
}
