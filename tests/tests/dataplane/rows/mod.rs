//! The packets: each what it is, its bytes, and what becomes of it. Read them as a specification.
//!
//! Rows run in order on one program; rows of one client port are one connection.

use std::net::{IpAddr, SocketAddr};

use lb_common::verdict::{Event, Verdict};

use crate::checks::{Expect, Row};
use crate::world::{Feature, VIP4, VIP6, Way, nat_address, port};

mod features;
mod fragments;
mod headers;
mod icmp;
mod modes;
mod sizes;
mod specific;
mod truncations;
mod vlan;

/// All rows but those of frames cut short.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = Rows::default();
    for six in [false, true] {
        modes::rows(&mut rows, six);
        sizes::rows(&mut rows, six);
        fragments::rows(&mut rows, six);
        icmp::rows(&mut rows, six);
        vlan::rows(&mut rows, six);
        features::rows(&mut rows, six);
        specific::rows(&mut rows, six);
    }
    headers::rows(&mut rows);
    rows.0
}

/// Frames cut short.
pub(crate) fn truncated() -> Vec<Row> {
    let mut rows = Rows::default();
    truncations::rows(&mut rows);
    rows.0
}

/// Rows in the making.
#[derive(Default)]
pub(super) struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: impl Into<String>, frame: Vec<u8>, expect: Expect) -> &mut Row {
        let row = Row::new(what, frame, expect);
        self.0.push(row);
        self.0.last_mut().unwrap()
    }

    /// A packet that can be told only by its address: `verdict` at a VIP, passed elsewhere.
    fn odd(
        &mut self,
        what: &str,
        six: bool,
        verdict: Verdict,
        make: &dyn Fn(SocketAddr) -> Vec<u8>,
    ) {
        let f = family(six);
        let to_vip = Expect::Untouched(verdict);
        let to_others = Expect::Untouched(Verdict::PassNotVip);
        self.add(format!("{f} {what} to a VIP"), make(to(six, Feature::Plain, Way::Dsr)), to_vip);
        self.add(format!("{f} {what} to others"), make(elsewhere(six)), to_others);
        let nat = SocketAddr::new(nat_address(six), 20_000);
        self.add(format!("{f} {what} to a NAT address"), make(nat), to_others);
    }
}

impl Row {
    /// These are counted.
    fn counts(&mut self, events: &[Event]) -> &mut Self {
        self.events = events.to_vec();
        self
    }

    /// It goes to this backend of its group.
    fn at(&mut self, index: usize) -> &mut Self {
        self.backend = Some(index);
        self
    }

    /// The backend gets this.
    fn becomes(&mut self, frame: Vec<u8>) -> &mut Self {
        self.becomes = Some(frame);
        self
    }
}

fn family(six: bool) -> &'static str {
    if six { "v6" } else { "v4" }
}

fn vip(six: bool) -> IpAddr {
    if six { VIP6 } else { VIP4 }
}

/// A service of the VIP.
fn to(six: bool, feature: Feature, way: Way) -> SocketAddr {
    SocketAddr::new(vip(six), port(feature, way))
}

/// An address of this family that is no VIP.
fn elsewhere(six: bool) -> SocketAddr {
    let address = if six { "2001:db8:ffff::99" } else { "203.0.114.99" };
    SocketAddr::new(address.parse().unwrap(), port(Feature::Plain, Way::Dsr))
}
