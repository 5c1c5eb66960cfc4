//! Any valid probe.

use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

use crate::config::model::*;
use crate::config::probe::Word;

pub(super) fn health() -> impl Strategy<Value = Health> {
    let ms = |range: std::ops::RangeInclusive<u64>| range.prop_map(Duration::from_millis);
    let port = prop::option::of(1..=u16::MAX);
    let times = (ms(100..=3_600_000), ms(10..=100), ms(10..=60_000), 0..=50u8);
    // The other way is no valid one in every mode and of every probe.
    let via = prop::option::of(Just(Via::Address));
    (probe(), port, any::<bool>(), via, times, 1..=100u32, 1..=100u32).prop_map(
        |(probe, port, sourced, via, (interval, fast_interval, timeout, jitter), rise, fall)| {
            Health {
                port: port.filter(|_| probe != Probe::Icmp),
                // `fit_backends` makes it one of the backends' family.
                source: sourced.then(|| [10, 9, 9, 8].into()),
                via,
                probe,
                interval,
                fast_interval,
                jitter,
                timeout,
                rise,
                fall,
                hold_down: fast_interval,
                hold_down_max: interval,
            }
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    let name = || "[a-z]{1,10}(\\.[a-z]{1,10}){0,2}";
    let dns = (name(), select(words::<RecordType>()), select(words::<Rcode>()), any::<bool>());
    let dns = dns.prop_map(|(name, record, rcode, answered)| {
        let answer = match record {
            RecordType::A => "192.0.2.1",
            RecordType::Aaaa => "2001:db8::1",
            _ => "a.example",
        };
        let answer = (answered && rcode == Rcode::NoError).then(|| answer.to_owned());
        Probe::Dns(Dns { name, record, rcode, answer })
    });
    let bytes = || prop::collection::vec(any::<u8>(), 1..40).prop_map(|bytes| Payload::new(&bytes));
    let udp = (bytes(), prop::option::of(bytes()))
        .prop_map(|(payload, expect)| Probe::Udp(Udp { payload, expect }));
    let grpc = ("[a-zA-Z.]{0,20}", prop::option::of(tls()))
        .prop_map(|(service, tls)| Probe::Grpc(Grpc { service, tls }));
    let exec = ("/[!-~]{1,20}", prop::collection::vec("\\PC{0,20}", 0..4))
        .prop_map(|(program, arguments)| Probe::Exec(Exec { program, arguments }));
    let simple = select(vec![Probe::None, Probe::Tcp, Probe::Icmp]);
    prop_oneof![simple, http().prop_map(Probe::Http), grpc, dns, udp, exec]
}

fn words<T: Word>() -> Vec<T> {
    T::ALL.iter().map(|(_, value)| *value).collect()
}

fn http() -> impl Strategy<Value = Http> {
    let host = prop::option::of("[a-z0-9.:-]{1,20}");
    let status = prop::collection::vec((100..=300u16, 0..=299u16), 1..4).prop_map(|ranges| {
        let ranges = ranges.into_iter().map(|(start, more)| start..=start + more);
        Statuses::new(ranges.collect()).unwrap()
    });
    let body = prop_oneof![
        "\\PC{1,20}".prop_map(BodyMatch::Contains),
        "[a-z^$. ]{1,20}".prop_map(BodyMatch::Regex),
    ];
    (
        "/[!-~]{0,20}",
        select(words::<Method>()),
        host,
        status,
        prop::option::of(body),
        prop::option::of(tls()),
    )
        .prop_map(|(path, method, host, status, body, tls)| {
            let body = body.filter(|_| method != Method::Head);
            Http { path, method, host, status, body, tls }
        })
}

fn tls() -> impl Strategy<Value = Tls> {
    let sni = prop::option::of("[a-z]{1,10}\\.example");
    (sni, prop::option::of(select(authorities())), any::<bool>()).prop_map(|(sni, ca, insecure)| {
        let ca = ca.filter(|_| !insecure);
        Tls { sni, ca, insecure }
    })
}

/// Two files that are there as long as the tests run.
fn authorities() -> Vec<Ca> {
    static FILES: OnceLock<(TempDir, Vec<Ca>)> = OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().unwrap();
        let files = ["one.pem", "two.pem"].map(|name| {
            let path = directory.path().join(name);
            let made = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
            std::fs::write(&path, made.cert.pem()).unwrap();
            Ca::read(path.to_str().unwrap()).unwrap()
        });
        (directory, files.to_vec())
    };
    FILES.get_or_init(make).1.clone()
}
