//! A DNS question over UDP (RFC 1035): are response code and answer those wanted?

use std::net::{Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, SimpleDnsError, TYPE};
use socket2::{Protocol, Type};

use super::connect::datagrams;
use super::datagram::exchange;
use super::way::Passage;
use super::{Failure, FailureKind, Limit, Target, random};
use crate::config::model::{Dns, Rcode, RecordType};

/// Answers that are named in a failure.
const SHOWN: usize = 3;

pub(super) async fn dns(
    target: &Target,
    passage: Option<&Passage<'_>>,
    dns: &Dns,
    limit: Limit,
) -> Result<(), Failure> {
    let socket = datagrams(target, passage, Type::DGRAM, Protocol::UDP)?;
    // The source port is random, too: late and forged answers have 32 bits to guess.
    let [high, low, ..] = random().to_be_bytes();
    let id = u16::from_be_bytes([high, low]);
    let query = query(id, dns).map_err(|error| {
        Failure::new(FailureKind::Local, format!("cannot ask for {:?}: {error}", dns.name))
    })?;
    let at = target.address;
    let silence = || format!("no DNS answer from {at}");
    exchange(&socket, target, limit, &query, silence, |reply| {
        let verdict = judge(reply, id, dns)?;
        Some(verdict.map_err(|(kind, detail)| {
            Failure::new(kind, format!("{detail} from {at} ({} {})", dns.name, dns.record))
        }))
    })
    .await
}

fn query(id: u16, dns: &Dns) -> Result<Vec<u8>, SimpleDnsError> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(dns.name.trim_end_matches('.'))?;
    packet.questions.push(Question::new(name, type_of(dns), CLASS::IN.into(), false));
    packet.build_bytes_vec()
}

/// `None` for what is no answer to the question with this id.
fn judge(reply: &[u8], id: u16, dns: &Dns) -> Option<Result<(), (FailureKind, String)>> {
    if reply.get(..2)? != id.to_be_bytes() {
        return None;
    }
    let protocol = |detail: &str| Some(Err((FailureKind::Protocol, detail.to_owned())));
    let Ok(packet) = Packet::parse(reply) else { return protocol("no DNS answer") };
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return protocol("a question, not an answer,");
    }
    if let Some(question) = packet.questions.first()
        && (question.qtype != type_of(dns) || !same_name(&question.qname.to_string(), &dns.name))
    {
        return protocol("the answer to another question");
    }
    let (got, wanted) = (packet.rcode(), rcode(dns.rcode));
    if got != wanted {
        let got = word(got).map_or_else(|| format!("{got:?}"), |rcode| rcode.to_string());
        let detail = format!("{got} instead of {}", dns.rcode);
        return Some(Err((FailureKind::HttpStatus, detail)));
    }
    let Some(wanted) = &dns.answer else { return Some(Ok(())) };
    let answers: Vec<String> =
        packet.answers.iter().filter_map(|answer| text(&answer.rdata, dns.record)).collect();
    if answers.iter().any(|answer| same(answer, wanted, dns.record)) {
        return Some(Ok(()));
    }
    let found = match answers.len() {
        0 => "no such record".to_owned(),
        _ => answers
            .iter()
            .take(SHOWN)
            .map(|answer| super::excerpt::excerpt(answer.as_bytes()))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let more = if answers.len() > SHOWN { ", …" } else { "" };
    Some(Err((FailureKind::Body, format!("{found}{more} instead of {wanted:?}"))))
}

fn type_of(dns: &Dns) -> QTYPE {
    QTYPE::TYPE(match dns.record {
        RecordType::A => TYPE::A,
        RecordType::Aaaa => TYPE::AAAA,
        RecordType::Cname => TYPE::CNAME,
        RecordType::Mx => TYPE::MX,
        RecordType::Ns => TYPE::NS,
        RecordType::Ptr => TYPE::PTR,
        RecordType::Soa => TYPE::SOA,
        RecordType::Srv => TYPE::SRV,
        RecordType::Txt => TYPE::TXT,
    })
}

const RCODES: [(Rcode, RCODE); 6] = [
    (Rcode::NoError, RCODE::NoError),
    (Rcode::FormErr, RCODE::FormatError),
    (Rcode::ServFail, RCODE::ServerFailure),
    (Rcode::NxDomain, RCODE::NameError),
    (Rcode::NotImp, RCODE::NotImplemented),
    (Rcode::Refused, RCODE::Refused),
];

fn rcode(wanted: Rcode) -> RCODE {
    RCODES.iter().find(|(ours, _)| *ours == wanted).map_or(RCODE::Reserved, |(_, theirs)| *theirs)
}

fn word(got: RCODE) -> Option<Rcode> {
    RCODES.iter().find(|(_, theirs)| *theirs == got).map(|(ours, _)| *ours)
}

/// What of a record is compared: the address, the name or the text in it.
fn text(data: &RData<'_>, record: RecordType) -> Option<String> {
    Some(match (data, record) {
        (RData::A(a), RecordType::A) => Ipv4Addr::from(a.address).to_string(),
        (RData::AAAA(aaaa), RecordType::Aaaa) => Ipv6Addr::from(aaaa.address).to_string(),
        (RData::CNAME(name), RecordType::Cname) => name.0.to_string(),
        (RData::MX(mx), RecordType::Mx) => mx.exchange.to_string(),
        (RData::NS(name), RecordType::Ns) => name.0.to_string(),
        (RData::PTR(name), RecordType::Ptr) => name.0.to_string(),
        (RData::SOA(soa), RecordType::Soa) => soa.mname.to_string(),
        (RData::SRV(srv), RecordType::Srv) => srv.target.to_string(),
        (RData::TXT(txt), RecordType::Txt) => String::try_from(txt.clone()).ok()?,
        _ => return None,
    })
}

fn same(answer: &str, wanted: &str, record: RecordType) -> bool {
    match record {
        RecordType::A => answer.parse::<Ipv4Addr>().ok() == wanted.parse().ok(),
        RecordType::Aaaa => answer.parse::<Ipv6Addr>().ok() == wanted.parse().ok(),
        RecordType::Txt => answer == wanted,
        _ => same_name(answer, wanted),
    }
}

/// RFC 4343: names are the same in capitals.
fn same_name(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(answer: Option<&str>) -> Dns {
        Dns {
            name: "example.org".into(),
            record: RecordType::A,
            rcode: Rcode::NoError,
            answer: answer.map(Into::into),
        }
    }

    /// An answer by hand: example.org A 192.0.2.1, with the name compressed (RFC 1035 section 4.1.4).
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x07example\x03org\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";

    #[test]
    fn the_query_is_as_the_rfc_has_it() {
        let expect = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
        assert_eq!(query(0x1234, &asked(None)).unwrap(), expect);
        let root = Dns { name: ".".into(), record: RecordType::Ns, ..asked(None) };
        assert_eq!(
            query(0x1234, &root).unwrap(),
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"
        );
    }

    #[test]
    fn answers_are_judged() {
        let judged = |reply: &[u8], dns: &Dns| judge(reply, 0x1234, dns);
        assert_eq!(judged(ANSWER, &asked(Some("192.0.2.1"))), Some(Ok(())));
        let mut refused = ANSWER.to_vec();
        refused[3] = 0x85;
        let mut question = ANSWER.to_vec();
        question[2] = 0;
        let mut other_name = ANSWER.to_vec();
        other_name[13] = b'X';
        let rows = [
            (ANSWER, "192.0.2.2", FailureKind::Body, "\"192.0.2.1\" instead of \"192.0.2.2\""),
            (&refused, "192.0.2.1", FailureKind::HttpStatus, "REFUSED instead of NOERROR"),
            (&question, "192.0.2.1", FailureKind::Protocol, "a question, not an answer,"),
            (&other_name, "192.0.2.1", FailureKind::Protocol, "the answer to another question"),
            (&ANSWER[..40], "192.0.2.1", FailureKind::Protocol, "no DNS answer"),
        ];
        for (reply, wanted, kind, detail) in rows {
            assert_eq!(judged(reply, &asked(Some(wanted))), Some(Err((kind, detail.into()))));
        }
        assert_eq!(judge(ANSWER, 0x1235, &asked(None)), None, "another id");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_reply_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut reply = 0x1234u16.to_be_bytes().to_vec();
            reply.extend(bytes);
            judge(&reply, 0x1234, &asked(Some("192.0.2.1")));
        }

        #[test]
        fn no_mutated_reply_panics(
            changes in prop::collection::vec((0..ANSWER.len(), any::<u8>()), 1..8),
            record in prop::sample::select(vec![RecordType::A, RecordType::Txt, RecordType::Soa, RecordType::Mx]),
        ) {
            let mut reply = ANSWER.to_vec();
            changes.iter().for_each(|(at, byte)| reply[*at] = *byte);
            judge(&reply, 0x1234, &Dns { record, ..asked(Some("x")) });
        }
    }
}
