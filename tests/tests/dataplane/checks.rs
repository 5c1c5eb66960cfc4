//! One check for every packet: what is expected of it, against what the program made of it, as
//! an independent decoder reads it.

use std::net::SocketAddr;

use lb_common::abi::{Address, Server};
use lb_common::verdict::{Event, Kind, Verdict};
use lb_userspace::dataplane::services::address;

use crate::decode::Decoded;
use crate::frames::{ACK, CLIENT_MAC, Outside, SYN, frame};
use crate::rig::{Action, End, INGRESS, Outcome};
use crate::world::{OUR_MAC, Placed, TCP, World};

/// What a packet comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// This verdict, and no byte changed.
    Untouched(Verdict),
    /// To a backend, with other MAC addresses and nothing else changed.
    Direct,
    /// To a backend, translated; and the backend's answer back to the client.
    Nat,
}

/// One packet and what it comes to.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) expect: Expect,
}

impl World {
    /// Runs a row's packet and checks all that can be told of it.
    pub(crate) fn check(&mut self, row: &Row) -> Outcome {
        let out = self.rig.run(&row.frame);
        match row.expect {
            Expect::Untouched(verdict) => assert_untouched(row, &out, verdict),
            Expect::Direct => self.assert_direct(row, &out),
            Expect::Nat => self.assert_translated(row, &out),
        }
        out
    }

    /// The service and server a packet went to.
    fn target(&self, sent: &Decoded, out: &Outcome, what: &str) -> (Placed, Server) {
        let service = self.service(sent.destination(), sent.protocol()).clone();
        let End::Backend(row) = out.end else { panic!("{what}: ended as {:?}", out.end) };
        let index = (row - service.table.first_row()) as usize;
        let server = *service.servers.get(index).unwrap_or_else(|| panic!("{what}: row {row}"));
        let action = if server.ifindex == INGRESS { Action::Transmit } else { Action::Redirect };
        assert_eq!(out.action, action, "{what}");
        (service, server)
    }

    fn assert_direct(&self, row: &Row, out: &Outcome) {
        let what = &row.what;
        let (_, server) = self.target(&Decoded::of(&row.frame), out, what);
        assert_eq!(out.frame[..12], *bytemuck::bytes_of(&server.ethernet), "{what}: MACs");
        assert_eq!(out.frame[12..], row.frame[12..], "{what}: more than the MACs changed");
        assert_eq!(out.events, [], "{what}: the steady state keeps no state");
    }

    fn assert_translated(&mut self, row: &Row, out: &Outcome) {
        let what = &row.what;
        let (before, after) = (Decoded::of(&row.frame), Decoded::of(&out.frame));
        let (service, server) = self.target(&before, out, what);
        assert_eq!(out.frame[..12], *bytemuck::bytes_of(&server.ethernet), "{what}: MACs");
        assert_nat_of(what, &before, &after, &row.frame, &out.frame);
        assert_eq!(address(after.source().ip()), server.nat_address, "{what}: source");
        assert!((20_000..30_000).contains(&after.source().port()), "{what}: source port");
        let port =
            if service.backend_port == 0 { service.vip.port() } else { service.backend_port };
        assert_eq!(ends(after.destination()), (server.address, port), "{what}: destination");
        let lookups = out.events.iter().filter(|e| **e == Event::NatLookup).count();
        assert_eq!(lookups, 1, "{what}: one look-up a packet, not {:?}", out.events);
        self.assert_answered(what, &before, &after);
    }

    /// The backend answers what it got; the client gets it from the VIP.
    fn assert_answered(&mut self, what: &str, asked: &Decoded, got: &Decoded) {
        let outside =
            Outside { source_mac: got.destination_mac, destination_mac: OUR_MAC, hops: 61 };
        let flags = if got.flags() & SYN != 0 { SYN | ACK } else { ACK };
        let flags = if got.protocol() == TCP { flags } else { 0 };
        let (from, to) = (got.destination(), got.source());
        let answer = frame(&outside, from, to, got.protocol(), flags, b"200 OK, from a backend");
        let out = self.rig.run(&answer);
        assert_eq!(out.end, End::Verdict(Verdict::NatReply), "{what}: answer");
        assert_eq!(out.action, Action::Transmit, "{what}: answer");
        assert_eq!(out.events, [Event::NatLookup], "{what}: answer");
        let after = Decoded::of(&out.frame);
        assert_nat_of(what, &Decoded::of(&answer), &after, &answer, &out.frame);
        assert_eq!(after.source(), asked.destination(), "{what}: the answer comes from the VIP");
        assert_eq!(after.destination(), asked.source(), "{what}: the answer's destination");
        assert_eq!(
            (after.destination_mac, after.source_mac),
            (CLIENT_MAC, OUR_MAC),
            "{what}: the answer goes back the way the question came"
        );
    }
}

fn ends(of: SocketAddr) -> (Address, u16) {
    (address(of.ip()), of.port())
}

fn assert_untouched(row: &Row, out: &Outcome, verdict: Verdict) {
    let what = &row.what;
    assert_eq!(out.end, End::Verdict(verdict), "{what}");
    assert_eq!(out.frame, row.frame, "{what}: bytes changed");
    let action = if verdict.kind() == Kind::Pass { Action::Pass } else { Action::Drop };
    assert_eq!(out.action, action, "{what}");
}

/// All that both directions of a translation have in common.
fn assert_nat_of(what: &str, before: &Decoded, after: &Decoded, input: &[u8], output: &[u8]) {
    assert_eq!(after.hops() + 1, before.hops(), "{what}: one hop");
    assert_eq!(after.unchanged_by_nat(), before.unchanged_by_nat(), "{what}: headers, payload");
    // A wrong checksum stays wrong: the receiver must see that bytes were damaged.
    assert_eq!(after.checksums(), before.checksums(), "{what}: checksums");
    let padding = input.len() - trailer(input);
    assert_eq!(output[padding..], input[padding..], "{what}: the Ethernet trailer");
}

/// Bytes behind the IP packet.
fn trailer(frame: &[u8]) -> usize {
    let at = |i: usize| usize::from(u16::from_be_bytes([frame[i], frame[i + 1]]));
    let packet = if frame[14] >> 4 == 4 { 14 + at(16) } else { 54 + at(18) };
    frame.len() - packet
}
