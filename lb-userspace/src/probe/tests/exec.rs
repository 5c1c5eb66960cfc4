//! Programs as probes.

use super::*;

fn shell(script: &str) -> Probe {
    let words = ["/bin/sh", "-c", script].map(|word| format!("'''{word}'''"));
    read(&format!("exec = [{}]", words.join(", ")))
}

fn at() -> SocketAddr {
    "192.0.2.1:80".parse().unwrap()
}

#[tokio::test]
async fn the_end_of_a_program_is_the_result() {
    for (script, expect) in [
        ("exit 0", "ok"),
        ("echo fine; exit 0", "ok"),
        ("exit 3", "exec: /bin/sh exited with status 3"),
        (
            "echo; echo ' disk full '; echo more; exit 1",
            "exec: /bin/sh exited with status 1: disk full",
        ),
        ("echo told >&2; exit 2", "exec: /bin/sh exited with status 2: told"),
        ("printf 'a\\033[31mb'; exit 1", "exec: /bin/sh exited with status 1: a[31mb"),
        ("kill -9 $$", "exec: /bin/sh was killed by signal 9"),
        // More than a pipe holds, and a child that keeps it open.
        ("yes | head -c 1000000; exit 0", "ok"),
        ("sleep 5 & exit 0", "ok"),
        (
            "test \"$HOLDFAST_SERVICE/$HOLDFAST_BACKEND $HOLDFAST_ADDRESS $HOLDFAST_PORT $PWD\" \
             = 'web/a 192.0.2.1 80 /'",
            "ok",
        ),
        ("test -z \"$CARGO_MANIFEST_DIR\"", "ok"),
        ("read line", "exec: /bin/sh exited with status 1"),
    ] {
        assert_eq!(text(ask(at(), &shell(script), PATIENCE).await), expect, "{script}");
    }
    let absent = text(ask(at(), &read("exec = ['/does/not/exist']"), PATIENCE).await);
    let expect = "local: /does/not/exist cannot be started: No such file or directory (os error 2)";
    assert_eq!(absent, expect);
}

#[tokio::test]
async fn at_the_timeout_the_whole_group_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let result = ask(at(), &shell(&script), Duration::from_secs(2)).await;
    assert_eq!(text(result), "timeout: /bin/sh did not end within 2000 ms");
    let child = std::fs::read_to_string(file).unwrap();
    let begun = std::time::Instant::now();
    while is_alive(child.trim()) {
        assert!(begun.elapsed() < PATIENCE, "{child} is alive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process runs: one that is dead but not waited for doesn't.
fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z"))
}
