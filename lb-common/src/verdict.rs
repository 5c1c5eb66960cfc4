//! What can become of a packet, and what else the program counts: one list, with its meaning.
//!
//! Every packet ends in exactly one [`Verdict`]; packets sent to a backend are counted in that
//! backend's row, all others in the row of verdicts, so that
//! *received = Σ backends' packets + Σ verdicts*.

/// What kind of end a counter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Left by an interface.
    Send,
    /// Given to the kernel untouched.
    Pass,
    /// Gone.
    Drop,
    /// Not an end: something worth counting on the way.
    Event,
}

macro_rules! counters {
    (
        verdicts { $($verdict:ident $verdict_kind:ident $verdict_name:literal $verdict_help:literal)* }
        events { $($event:ident $event_name:literal $event_help:literal)* }
    ) => {
        /// The end of a packet that was not sent to a backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Verdict { $(#[doc = $verdict_help] $verdict,)* }

        /// Something counted on a packet's way, beside its verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Event { $(#[doc = $event_help] $event,)* }

        impl Verdict {
            /// All verdicts, in the order of their counters.
            pub const ALL: &[Verdict] = &[$(Verdict::$verdict),*];

            /// The name users see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$verdict => $verdict_name,)* }
            }

            /// The verdict of a counter; the last one for what is none.
            #[inline(always)]
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                const LAST: u32 = Verdict::ALL.len() as u32 - 1;
                let number = if number > LAST { LAST } else { number };
                // SAFETY: the variants are numbered from 0 without gaps, up to `LAST`.
                unsafe { core::mem::transmute::<u32, Self>(number) }
            }

            /// Sent, passed or dropped.
            #[inline(always)]
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$verdict => Kind::$verdict_kind,)* }
            }

            /// What it means and what to do, one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$verdict => $verdict_help,)* }
            }
        }

        impl Event {
            /// All events, in the order of their counters.
            pub const ALL: &[Event] = &[$(Event::$event),*];

            /// The name users see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$event => $event_name,)* }
            }

            /// What it means, one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$event => $event_help,)* }
            }
        }
    };
}

counters! {
    verdicts {
        NatReply Send "nat-reply" "A backend's reply, translated back and sent to the client."
        EchoReply Send "echo-reply" "A ping to a VIP, answered here."
        TooBigSent Send "too-big-sent" "Larger than the way to its backend takes: its sender was told the size that fits."
        TimeExceededSent Send "time-exceeded-sent" "TTL or hop limit used up before the backend: its sender was told (traceroute, or a routing loop)."
        ResetSent Send "reset-sent" "A TCP packet of a `nat` connection whose backend is down, answered with a reset (`on_down = \"reset\"`)."
        PassNotIp Pass "pass-not-ip" "Neither IPv4 nor IPv6 (ARP, LLDP and the like): the kernel's."
        PassVlan Pass "pass-vlan" "Carries two VLAN tags: the kernel's."
        PassBadHeader Pass "pass-bad-header" "Too short for the IP header its type promises, or of another version: left to the kernel to refuse."
        PassNotVip Pass "pass-not-vip" "Addressed to no VIP: the kernel's."
        PassNoService Pass "pass-no-service" "To a VIP, but to a port or protocol no service listens on: the kernel's."
        DropTruncated Drop "drop-truncated" "To a VIP, with fewer bytes than its IP header says: look for a broken sender or capture length."
        DropMalformed Drop "drop-malformed" "To a VIP, with an IP header that contradicts itself: look for a broken or hostile sender."
        DropOptions Drop "drop-options" "To a VIP, with IPv4 options: no client needs them, and they would slip past port matching."
        DropExtension Drop "drop-extension" "To a VIP, with IPv6 extension headers before TCP or UDP: not supported."
        DropFragment Drop "drop-fragment" "A fragment to a VIP: it has no ports to hash; lower the client's MTU or fix path MTU discovery."
        DropBlocked Drop "drop-blocked" "From a source on the block list: see `lb block list`."
        DropNotAllowed Drop "drop-not-allowed" "From a source that is not on the service's `allow` list."
        DropRate Drop "drop-rate" "A new flow of a source that opens more than the service's `rate_limit`."
        DropTtl Drop "drop-ttl" "TTL or hop limit used up before the backend, and its sender could not be told (`icmp_rate`): look for a routing loop."
        DropTooBig Drop "drop-too-big" "Larger than the way to its backend takes, and its sender could not be told (`icmp_rate`)."
        DropIcmpNoFlow Drop "drop-icmp-no-flow" "An ICMP error to a VIP that quotes no flow of a service: a late answer, or forged."
        DropNoBackend Drop "drop-no-backend" "No backend of the service takes traffic: see `lb status`."
        DropNoNextHop Drop "drop-no-next-hop" "The chosen backend's MAC address is not known: see `lb status`."
        DropNatNoConnection Drop "drop-nat-no-connection" "A TCP packet of a connection that `nat` does not know: it idled out, or began before the balancer."
        DropNatBackendDown Drop "drop-nat-backend-down" "A TCP packet of a `nat` connection whose backend is down: the client must reconnect."
        DropNatNoPort Drop "drop-nat-no-port" "No free source port towards the backend: widen `nat_ports`."
        DropNatFull Drop "drop-nat-full" "The NAT table is full: raise `limits.nat_connections`."
        PassDecapsulated Pass "pass-decapsulated" "Taken out of its tunnel and given to the kernel (`lb decap`)."
        PassNoTunnel Pass "pass-no-tunnel" "Not in a tunnel: the kernel's (`lb decap`)."
        DropTunnelSource Drop "drop-tunnel-source" "In a tunnel from a source that is not allowed: see `lb decap --from`."
        DropTunnelInner Drop "drop-tunnel-inner" "In a tunnel, but what it holds is no IP packet of the type promised."
        DropTunnelEcn Drop "drop-tunnel-ecn" "Marked as congested on its way through the tunnel, while its sender does not understand the mark (RFC 6040)."
        DropInternal Drop "drop-internal" "The maps contradict each other: please report it with `lb status -o json`."
    }
    events {
        FlowLookup "flow-lookup" "Looked a flow up in the flow table (only while a change is fresh)."
        FlowInsert "flow-insert" "Recorded a flow in the flow table."
        FlowInsertLimited "flow-insert-limited" "Did not record a flow, as there were more than `flow_inserts` in this second; it went where a later packet would go too."
        FlowInsertFailed "flow-insert-failed" "Could not record a flow; it went where a later packet would go too."
        FlowVoid "flow-void" "Found a recorded flow whose backend is gone, and chose again."
        Rehash "rehash" "Walked on through the table: the home slot's backend does not take everything, or the slot is marked."
        WalkExhausted "walk-exhausted" "Found no backend in the bounded re-hash and took the service's spare."
        NatLookup "nat-lookup" "Looked a flow up in the NAT table (one for each packet of a `nat` service)."
        NatInsert "nat-insert" "Opened a NAT connection."
        NatPortTaken "nat-port-taken" "Found a source port taken and tried the next."
        NatVoid "nat-void" "Closed a NAT connection whose backend is gone, and opened a new one."
        Quoted "quoted" "An ICMP error, sent to the backend of the flow it quotes."
        QuicServerId "quic-server-id" "Routed a datagram by the server id in its QUIC connection id."
        MssClamped "mss-clamped" "Lowered the segment size that a SYN announces."
        IcmpLimited "icmp-limited" "Did not make an ICMP error, as there were more than `icmp_rate` in this second."
        ResetLimited "reset-limited" "Did not reset a connection whose backend is down, as there were too many in this second; the client's next packet will be answered."
        NatRefused "nat-refused" "A backend refused a new `nat` connection with a reset; it is probed at once."
        NatUnreachable "nat-unreachable" "An ICMP error says that a backend of a `nat` connection could not be reached; it is probed at once."
        NatHopLearned "nat-hop-learned" "A client's packets came by another MAC address; its replies now go there."
    }
}

/// Counters in one processor's row: verdicts from 0, events from [`EVENT_BASE`].
pub const ROW: u32 = 128;
/// The first event's place in the row.
pub const EVENT_BASE: u32 = 64;

const _: () = assert!(Verdict::ALL.len() <= EVENT_BASE as usize);
const _: () = assert!(Event::ALL.len() <= (ROW - EVENT_BASE) as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_kind_and_are_distinct() {
        for (at, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(at, *verdict as usize);
            match verdict.kind() {
                Kind::Pass => assert!(verdict.name().starts_with("pass-")),
                Kind::Drop => assert!(verdict.name().starts_with("drop-")),
                Kind::Send | Kind::Event => {}
            }
        }
        let mut names: Vec<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
        names.extend(Event::ALL.iter().map(|e| e.name()));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
