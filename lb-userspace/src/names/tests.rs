use std::fmt::Write;

use super::*;
use crate::config::model::Family;
use crate::config::parse;

/// Four backends of two services, of which `NAMES` have names.
const CONFIG: &str = r#"
[node]
interfaces = ["eth0"]
nat_addresses = ["10.0.0.2"]
[[service]]
name = "web"
mode = "nat"
listen = ["192.0.2.10:80/tcp"]
backends = [
  { name = "a", address = "a.example" },
  { name = "b", address = "b.example" },
  { name = "fixed", address = "10.0.0.9" },
]
[[service]]
name = "six"
mode = "gue"
listen = ["192.0.2.11:80/tcp"]
backends = [{ name = "c", address = "C.example.", family = "ipv6" }]
"#;

fn config() -> Config {
    parse(CONFIG, "lb.toml").unwrap()
}

fn lookup(name: &str) -> Lookup {
    let family = if name == "c" { Family::Ipv6 } else { Family::Ipv4 };
    Lookup { host: format!("{name}.example").parse().unwrap(), family }
}

/// `a=10.0.0.1,10.0.0.2` or `a!NXDOMAIN`.
fn answer(text: &str) -> (Lookup, Answer) {
    match text.split_once('!') {
        Some((name, why)) => (lookup(name), Err(why.to_owned())),
        None => {
            let (name, addresses) = text.split_once('=').unwrap();
            let addresses = addresses.split(',').filter(|a| !a.is_empty());
            (lookup(name), Ok(addresses.map(|a| a.parse().unwrap()).collect()))
        }
    }
}

/// `a 10.0.0.1 (why)` for each name.
fn shown(names: &Names) -> String {
    let mut text = String::new();
    for name in ["a", "b", "c"] {
        let lookup = lookup(name);
        let address = names.address(&lookup).map_or("-".into(), |a| a.to_string());
        let why = names.trouble(&lookup).map_or(String::new(), |t| format!(" ({})", t.why));
        let _ = write!(text, "{name} {address}{why}; ");
    }
    text
}

fn fresh(now: Instant) -> Names {
    Names::inherit(&config(), Vec::new(), now)
}

/// Steps of answers, and what is known after each.
fn check(what: &str, steps: &[(&[&str], &str)]) {
    let now = Instant::now();
    let mut names = fresh(now);
    for (at, (answers, expect)) in steps.iter().enumerate() {
        names.settle(&config(), answers.iter().map(|text| answer(text)).collect(), now);
        assert!(shown(&names).contains(expect), "{what}, step {at}: {}", shown(&names));
    }
}

#[test]
fn an_address_follows_from_answers() {
    check("nothing yet", &[(&[], "a -; b -; c -; ")]);
    check("the first", &[(&["a=10.0.0.1"], "a 10.0.0.1; b -; c -; ")]);
    check(
        "the lowest of several, as numbers",
        &[(&["a=10.0.0.100,10.0.0.20,10.0.0.3"], "a 10.0.0.3; ")],
    );
    check(
        "the present one stays while it is among them",
        &[
            (&["a=10.0.0.7"], "a 10.0.0.7; "),
            (&["a=10.0.0.3,10.0.0.7"], "a 10.0.0.7; "),
            (&["a=10.0.0.3,10.0.0.4"], "a 10.0.0.3; "),
        ],
    );
    check(
        "only of its family",
        &[
            (&["a=fd00::1", "c=10.0.0.1"], "a - (has no IPv4 address); b -; c - (has no IPv6"),
            (&["a=fd00::1,10.0.0.1", "c=fd00::1,10.0.0.1"], "a 10.0.0.1; b -; c fd00::1; "),
        ],
    );
    check("the unspecified one is none", &[(&["a=0.0.0.0"], "a - (has no IPv4 address); ")]);
    check("a name that nobody has", &[(&["x=10.0.0.1"], "a -; b -; c -; ")]);
}

#[test]
fn an_address_is_never_lost() {
    for failure in ["a!does not resolve: NXDOMAIN", "a!does not resolve: no DNS", "a="] {
        check(
            failure,
            &[
                (&[failure], "a - ("),
                (&["a=10.0.0.1"], "a 10.0.0.1; "),
                (&[failure], "a 10.0.0.1 ("),
                (&[failure], "a 10.0.0.1 ("),
                (&["a=10.0.0.1"], "a 10.0.0.1; "),
                (&[failure], "a 10.0.0.1 ("),
                (&["a=10.0.0.5"], "a 10.0.0.5; "),
            ],
        );
    }
}

#[test]
fn what_the_configuration_does_not_hold_with_is_refused() {
    for (address, why) in [
        ("10.0.0.9", "web/fixed, address: 10.0.0.9 is in this service twice"),
        ("192.0.2.11", "is a VIP"),
        ("10.0.0.2", "NAT source address"),
        ("127.0.0.1", "loopback"),
    ] {
        let bad = format!("a={address}");
        let refused = format!("resolves to {address}, which is refused: ");
        check(&bad, &[(&[&bad], &format!("a - ({refused}"))]);
        check(
            &bad,
            &[
                (&["a=10.0.0.1"], "a 10.0.0.1; "),
                (&[&bad], &format!("a 10.0.0.1 ({refused}")),
                (&["a=10.0.0.3"], "a 10.0.0.3; "),
            ],
        );
        let now = Instant::now();
        let mut names = fresh(now);
        names.settle(&config(), vec![answer(&bad)], now);
        assert!(shown(&names).contains(why), "{}", shown(&names));
    }
}

#[test]
fn two_names_of_one_address_stay_apart() {
    check(
        "the first keeps it",
        &[
            (&["a=10.0.0.1", "b=10.0.0.3"], "a 10.0.0.1; b 10.0.0.3; "),
            (&["b=10.0.0.1"], "a 10.0.0.1; b 10.0.0.3 (resolves to 10.0.0.1, which is refused"),
            // What is in the way goes: without another answer for it, the other follows.
            (&["a=10.0.0.4"], "a 10.0.0.4; b 10.0.0.1; "),
        ],
    );
    check(
        "what is in the way goes, and was asked for later",
        &[
            (&["a=10.0.0.1", "b=10.0.0.3"], "a 10.0.0.1; b 10.0.0.3; "),
            (&["a=10.0.0.3"], "a 10.0.0.1 (resolves to 10.0.0.3"),
            (&["a=10.0.0.3"], "a 10.0.0.1 (resolves to 10.0.0.3"),
            (&["b=10.0.0.9"], "a 10.0.0.1 (resolves to 10.0.0.3"),
            (&["b=10.0.0.4"], "a 10.0.0.3; b 10.0.0.4; "),
        ],
    );
    check("neither has one yet", &[(&["a=10.0.0.1", "b=10.0.0.1"], "a 10.0.0.1; b - (resolves")]);
    check(
        "two that change places, one after the other",
        &[
            (&["a=10.0.0.1", "b=10.0.0.3"], "a 10.0.0.1; b 10.0.0.3; "),
            (&["a=10.0.0.3"], "a 10.0.0.1 (resolves to 10.0.0.3"),
            (&["b=10.0.0.1"], "a 10.0.0.3; b 10.0.0.1; "),
        ],
    );
}

#[test]
fn a_change_of_the_configuration_makes_way() {
    let now = Instant::now();
    let mut names = fresh(now);
    let taken = || vec![answer("a=10.0.0.9")];
    names.settle(&config(), taken(), now);
    let edited = parse(&CONFIG.replace("10.0.0.9", "10.0.0.8"), "lb.toml").unwrap();
    names.keep(&lookups(&edited));
    assert!(shown(&names).starts_with("a - (resolves to 10.0.0.9"), "{}", shown(&names));
    names.settle(&edited, taken(), now);
    assert!(shown(&names).starts_with("a 10.0.0.9; "), "{}", shown(&names));
}

#[test]
fn what_cannot_be_put_in_force_is_taken_back() {
    let now = Instant::now();
    let mut names = fresh(now);
    names.settle(&config(), vec![answer("a=10.0.0.1")], now);
    let news = names.settle(&config(), vec![answer("a=10.0.0.3")], now);
    let [News::Moved { lookup, from, to }] = news.as_slice() else { panic!("{news:?}") };
    names.take_back(lookup, (*from, *to), "no room", now);
    let expect = "a 10.0.0.1 (resolves to 10.0.0.3, which is refused: no room); ";
    assert!(shown(&names).starts_with(expect), "{}", shown(&names));
}

#[test]
fn since_when_it_fails_is_since_the_first_failure() {
    let began = Instant::now();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut names = fresh(began);
    let mut step = |seconds, text| {
        let news = names.settle(&config(), vec![answer(text)], at(seconds));
        let since = names.trouble(&lookup("a")).map(|t| (t.since - began).as_secs());
        (since, news.len())
    };
    assert_eq!(step(1, "a=10.0.0.1"), (None, 1), "moved");
    assert_eq!(step(2, "a!x"), (Some(2), 1), "failed");
    assert_eq!(step(3, "a!y"), (Some(2), 0), "still, for another reason");
    assert_eq!(step(4, "a=10.0.0.9"), (Some(2), 0), "and another");
    assert_eq!(step(5, "a=10.0.0.1"), (None, 1), "well");
    assert_eq!(step(6, "a=10.0.0.1"), (None, 0));
    assert_eq!(step(7, "a="), (Some(7), 1));
}

#[test]
fn a_restart_goes_on_with_the_last_addresses() {
    let now = Instant::now();
    let mut names = fresh(now);
    let answers = ["a=10.0.0.1", "b=10.0.0.3", "c=fd00::1"].map(answer);
    names.settle(&config(), answers.into(), now);
    let placed = names.placed();
    let text = serde_json::to_string(&placed).unwrap();
    assert!(
        text.contains(r#"{"host":"a.example","family":"ipv4","address":"10.0.0.1"}"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Vec<Placed>>(&text).unwrap(), placed);
    let mut again = Names::inherit(&config(), placed.clone(), now);
    assert_eq!(shown(&again), "a 10.0.0.1; b 10.0.0.3; c fd00::1; ");
    assert!(!again.is_heard(&lookup("a")), "but each is asked for");
    again.settle(&config(), vec![answer("a!x")], now);
    assert!(again.is_heard(&lookup("a")));
    assert_eq!(again.address(&lookup("a")), Some([10, 0, 0, 1].into()));

    // The configuration was edited meanwhile: its own address wins.
    let edited = parse(&CONFIG.replace("10.0.0.9", "10.0.0.1"), "lb.toml").unwrap();
    let again = Names::inherit(&edited, placed, now);
    assert!(shown(&again).starts_with("a - (resolves to 10.0.0.1, which"), "{}", shown(&again));
    assert!(shown(&again).contains("b 10.0.0.3; c fd00::1; "), "the others keep theirs");
}

#[test]
fn a_configuration_is_resolved_and_what_is_nowhere_keeps_its_family() {
    let now = Instant::now();
    let mut names = fresh(now);
    names.settle(&config(), vec![answer("a=10.0.0.1")], now);
    let resolved = names.resolve(&config());
    let all = resolved.services.iter().flat_map(|s| &s.backends);
    let shown: Vec<_> = all.map(|b| (b.address.to_string(), b.is_placed())).collect();
    let expect = [("10.0.0.1", true), ("0.0.0.0", false), ("10.0.0.9", true), ("::", false)];
    assert_eq!(shown, expect.map(|(address, placed)| (address.to_owned(), placed)));
    assert_eq!(crate::config::to_toml(&resolved), crate::config::to_toml(&config()), "as written");
    assert_eq!(names.why_nowhere(&lookup("b")).text, "name: b.example is being looked up");
    names.settle(&config(), vec![answer("b!does not resolve: NXDOMAIN")], now);
    let why = names.why_nowhere(&lookup("b"));
    assert_eq!(why.text, "name: b.example does not resolve: NXDOMAIN");
    assert!(why.kind.is_hard());
}

#[test]
fn only_names_of_the_configuration_are_followed() {
    let mut names = fresh(Instant::now());
    assert_eq!(names.followed().cloned().collect::<Vec<_>>(), ["a", "b", "c"].map(lookup));
    names.add([lookup("new")]);
    assert_eq!(names.followed().count(), 4);
    names.keep(&lookups(&config()));
    assert_eq!(names.followed().count(), 3);
}

#[test]
fn the_time_to_live_counts_within_bounds() {
    for (seconds, expect) in
        [(None, 5), (Some(0), 5), (Some(4), 5), (Some(30), 30), (Some(60), 60), (Some(86_400), 60)]
    {
        let again = ask_again_in(seconds.map(Duration::from_secs));
        assert_eq!(again, Duration::from_secs(expect), "{seconds:?}");
    }
}

#[test]
fn an_address_that_cannot_be_left_is_kept_until_it_can() {
    let now = Instant::now();
    let mut names = fresh(now);
    names.settle(&config(), vec![answer("a=10.0.0.1")], now);
    let not_a = |what: &Lookup| if *what == lookup("a") { Err("web".to_owned()) } else { Ok(()) };
    // A first address leaves none.
    let both = || vec![answer("a=10.0.0.3"), answer("b=10.0.0.4")];
    names.settle_where(&config(), both(), not_a, now);
    let waits = "a 10.0.0.1 (resolves to 10.0.0.3, which waits: web); b 10.0.0.4; ";
    assert!(shown(&names).contains(waits), "{}", shown(&names));
    names.settle_where(&config(), vec![answer("b=10.0.0.4")], not_a, now);
    assert!(shown(&names).contains(waits), "{}", shown(&names));
    let news = names.settle(&config(), vec![answer("b=10.0.0.4")], now);
    let (from, to) = (Some([10, 0, 0, 1].into()), [10, 0, 0, 3].into());
    assert_eq!(news, [News::Moved { lookup: lookup("a"), from, to }]);
    assert!(shown(&names).contains("a 10.0.0.3; b 10.0.0.4; "), "{}", shown(&names));
}
