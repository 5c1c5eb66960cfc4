//! Who is told of what.

use super::{HEAD, TWO, WEB, check, service};

#[test]
fn who_is_told() {
    let hook = "webhook = \"https://h.example/lb\"";
    let alert = |lines: &str, expect: &str| {
        check(&format!("{HEAD}[[alert]]\n{lines}\n{WEB}{TWO}"), &[expect]);
    };
    alert("", "3:1 [[alert]] | has no target | webhook = \"https://");
    alert("colour = 1", "4:1 colour | unknown key | known here: webhook, exec, headers_file");
    alert("webhook = \"h.example\"", "4:11 \"h.example\" | not a webhook's URL | https://hooks");
    alert("webhook = \"http://a:b@h/\"", "4:11 \"http://a:b@h/\" | URL | `headers_file`");
    alert(&format!("{hook}\nexec = [\"/a\"]"), "5:8 [\"/a\"] | two targets | for each of them");
    alert("exec = \"/a\"", "4:8 \"/a\" | invalid type | write a list");
    alert("exec = []", "4:8 [] | no absolute path | exec = [\"/usr");
    alert("exec = [\"page\"]", "4:8 [\"page\"] | no absolute path | exec = [\"/usr");
    let both = "exec = [\"/a\"]\nca_file = \"/b\"";
    alert(both, "5:11 \"/b\" | belongs to a webhook | arguments");
    for (line, at, message) in [
        ("events = [\"panik\"]", "5:11 \"panik\"", "not a kind of alert | did you mean \"panic\"?"),
        ("events = [\"x\"]", "5:11 \"x\"", "not a kind of alert | it can be panic, coverage"),
        ("min_severity = \"bad\"", "5:16 \"bad\"", "not a severity | info, warning or critical"),
        ("timeout = \"21s\"", "5:11 \"21s\"", "10ms to 20s | 5s, the default"),
        ("timeout = \"soon\"", "5:11 \"soon\"", "not a duration | ms, s, m or h"),
        ("retries = 11", "5:11 11", "0 to 10 | a minute later"),
        ("retries = -1", "5:11 -1", "0 to 10 | a minute later"),
        ("repeat = \"1s\"", "5:10 \"1s\"", "1m to 168h | 4h, the default"),
        ("batch = \"2m\"", "5:9 \"2m\"", "0s to 1m | one message"),
        ("headers_file = \"h\"", "5:16 \"h\"", "no absolute path | /etc/holdfast"),
        ("template = \"{{x}}\"", "5:12 \"{{x}}\"", "no placeholder {{x}} | {{title}}, {{message}}"),
        ("template = \"{\"", "5:12 \"{\"", "makes no JSON | inside of its strings"),
    ] {
        alert(&format!("{hook}\n{line}"), &format!("{at} | {message}"));
    }
    let plain = "webhook = \"http://h/\"\nca_file = \"/a\"";
    alert(plain, "5:11 \"/a\" | nothing is verified | write https://");
    let twice = format!("{hook}\n[[alert]]\n{hook}");
    alert(&twice, "6:11 \"https://h.example/lb\" | has an [[alert]] already | all `events`");
    let broken =
        format!("colour\n[[alert]]\n{hook}\nbatch = \"2m\"").replace("colour", "retries = 1");
    let source = format!("{HEAD}[[alert]]\n{broken}\n{WEB}{TWO}");
    let expect = ["3:1 [[alert]] | has no target | add", "7:9 \"2m\" | 0s to 1m | one message"];
    check(&source, &expect);
    service("capacity_warning = \"75\"", "7:20 \"75\" | not a part of the backends | \"10%\"");
    service("capacity_warning = \"0%\"", "7:20 \"0%\" | 1% to 100% | leave it out");
}
