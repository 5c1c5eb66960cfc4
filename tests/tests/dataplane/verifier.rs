//! What the verifier thinks of the program.

use crate::rig::{Rig, Sizes};

/// Far below the kernel's limit of one million, with room for later steps of the packet path.
const MOST: u32 = 200_000;

#[test]
fn the_program_is_verified_with_room_to_spare() {
    let rig = Rig::load(Sizes::default());
    let count = rig.verified_instructions().expect("kernels since 5.16 tell");
    println!("verified instructions: {count} (limit of the kernel 1,000,000, of this test {MOST})");
    assert!(count < MOST, "{count} instructions");
}
