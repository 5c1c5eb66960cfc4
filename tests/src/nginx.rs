//! nginx as a backend: `/` names the backend, `/echo/…` repeats the path as well, `/healthz` is for probes (not
//! logged), `/big` is 100 KiB and `/huge` 8 MiB, `/upload` says how many bytes it was sent, `/status` counts.
//! Ports 80 and 8080, both families.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    namespace::Namespace,
    process::{kill_group, process_group, run, wait_until},
};

/// Files of one nginx; the process is found by its pid file, so a later process can stop it too.
#[derive(Clone, Debug)]
pub struct Nginx {
    namespace: Namespace,
    directory: PathBuf,
}

const BIG_BYTES: usize = 100 * 1024;
/// Bytes of `/huge`.
pub const HUGE_BYTES: u64 = 8 << 20;

impl Nginx {
    /// Writes the configuration; does not start it.
    pub(crate) fn configure(namespace: &Namespace, name: &str, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("www"))?;
        fs::write(directory.join("www/big"), vec![b'x'; BIG_BYTES])?;
        // Zeroes that take no room.
        File::create(directory.join("www/huge"))?.set_len(HUGE_BYTES)?;
        fs::write(directory.join("nginx.conf"), configuration(name, directory))?;
        Ok(Self::at(namespace, directory))
    }

    pub(crate) fn at(namespace: &Namespace, directory: &Path) -> Self {
        Self { namespace: namespace.clone(), directory: directory.to_owned() }
    }

    /// Returns when it listens.
    pub fn start(&self) -> Result<()> {
        if self.pid().is_some() {
            bail!("nginx already runs in {}", self.namespace.name());
        }
        let program =
            if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        run(self
            .namespace
            .command(program)
            .arg("-c")
            .arg(self.directory.join("nginx.conf"))
            .arg("-e")
            .arg(self.directory.join("error.log")))?;
        if !wait_until(Duration::from_secs(5), || self.pid().is_some()) {
            bail!("nginx did not start in {}", self.namespace.name());
        }
        Ok(())
    }

    /// Lets running requests finish, then ends it.
    pub fn stop(&self) -> Result<()> {
        self.end(libc::SIGQUIT)
    }

    /// `kill -9`, master and workers: the kernel resets its connections.
    pub fn kill(&self) -> Result<()> {
        self.end(libc::SIGKILL)
    }

    /// Stops without ending it: the kernel accepts connections, and nobody answers.
    pub fn freeze(&self) -> Result<()> {
        self.signal(libc::SIGSTOP).map(drop)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal(libc::SIGCONT).map(drop)
    }

    /// Answers probes with 500 from now on, and everything else as before.
    pub fn sicken(&self) -> Result<()> {
        Ok(fs::write(self.directory.join("sick"), "")?)
    }

    pub fn heal(&self) -> Result<()> {
        Ok(fs::remove_file(self.directory.join("sick"))?)
    }

    /// Requests answered, without probes, by its own log.
    pub fn requests(&self) -> Result<usize> {
        let path = self.directory.join("access.log");
        let log = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(log.iter().filter(|byte| **byte == b'\n').count())
    }

    /// Its log, one line a request: client address and port, server address, URI, status.
    pub fn access_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("access.log"))?)
    }

    /// The master's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.directory.join("nginx.pid")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        self.namespace.has(pid).then_some(pid)
    }

    fn signal(&self, signal: i32) -> Result<u32> {
        let pid =
            self.pid().with_context(|| format!("no nginx runs in {}", self.namespace.name()))?;
        // The master leads a process group of its own (it called setsid), and the workers are in it.
        kill_group(pid, signal);
        Ok(pid)
    }

    fn end(&self, signal: i32) -> Result<()> {
        let pid = self.signal(signal)?;
        // The workers too: as long as one of them lives, its socket accepts connections.
        let ended =
            || self.namespace.pids().iter().all(|process| process_group(*process) != Some(pid));
        if !wait_until(Duration::from_secs(5), ended) {
            bail!("nginx {pid} still runs");
        }
        // After SIGKILL nobody else removes it, and nginx would take it for its own.
        let _ = fs::remove_file(self.directory.join("nginx.pid"));
        Ok(())
    }
}

fn configuration(name: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    log_format lab '$remote_addr $remote_port $server_addr $request_uri $status';
    access_log {directory}/access.log lab;
    default_type text/plain;
    keepalive_requests 10000000;
    keepalive_timeout 600s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        add_header X-Backend "{name}";
        location = /healthz {{
            access_log off;
            if (-f {directory}/sick) {{ return 500; }}
            return 200 "ok\n";
        }}
        location = /status {{ access_log off; stub_status; }}
        location = /big {{ root {directory}/www; }}
        location = /huge {{ root {directory}/www; }}
        # Passed on, and so answered, when all of it is here.
        location = /upload {{ client_max_body_size 0; proxy_pass http://127.0.0.1:80/received; }}
        location = /received {{
            access_log off;
            client_max_body_size 0;
            return 200 "$content_length\n";
        }}
        location /echo/ {{ return 200 "{name} $uri\n"; }}
        location / {{ return 200 "{name}\n"; }}
    }}
}}
"#
    )
}
