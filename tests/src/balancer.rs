//! `lb` in a lab: its configuration, the running daemon, and its command line.

use std::{
    env,
    ffi::OsStr,
    fmt::Write,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    lab::{Backend, Lab},
    namespace::Namespace,
    process::{Process, wait_until},
    topology::{Arms, Family, Mode},
};

/// The configuration of a service over a lab's backends.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub name: String,
    pub listen: Vec<String>,
    pub mode: Mode,
    /// Of the VIP.
    pub family: Family,
    /// Of the backends' addresses: in `nat` that of the VIP.
    pub servers: Family,
    /// The inline table of `health`, without braces.
    pub health: String,
    /// How long a connection may be silent across a change.
    pub idle_timeout: String,
    /// Weights of the first backends; 1 for the rest.
    pub weights: Vec<u16>,
    /// Which of the lab's backends it has, by other names perhaps; `None`: all, by their own.
    pub backends: Option<Vec<BackendConfig>>,
    /// Other keys of the service: lines of TOML.
    pub more: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    pub name: String,
    /// Which of the lab's backends it is.
    pub server: u8,
    pub weight: u16,
}

impl ServiceConfig {
    /// Port 80 of the family's VIP, with HTTP probes as in the manual.
    pub fn http(mode: Mode, family: Family) -> Self {
        Self {
            name: "web".into(),
            listen: vec![format!("{}/tcp", SocketAddr::new(family.vip(), 80))],
            mode,
            family,
            servers: family,
            health: "http = \"/healthz\", interval = \"1s\", fast_interval = \"100ms\", \
                     timeout = \"500ms\", rise = 2, fall = 3"
                .into(),
            idle_timeout: "300s".into(),
            weights: Vec::new(),
            backends: None,
            more: String::new(),
        }
    }

    /// As [`Self::http`], with times as short as a busy machine allows: failures are found within
    /// [`QUICK_DETECTION`], and changes settle after three seconds.
    pub fn quick(mode: Mode, family: Family) -> Self {
        let mut service = Self::http(mode, family);
        service.health = "http = \"/healthz\", port = 80, interval = \"300ms\", \
                          fast_interval = \"100ms\", timeout = \"500ms\", rise = 2, fall = 3"
            .into();
        service.idle_timeout = "3s".into();
        service
    }

    /// [`Self::quick`] for each family, named `ipv4` and `ipv6`.
    pub fn both(mode: Mode) -> [Self; 2] {
        Family::ALL.map(|family| Self {
            name: family.to_string().to_lowercase(),
            ..Self::quick(mode, family)
        })
    }

    /// With backends by their addresses of this family.
    pub fn over(self, servers: Family) -> Self {
        Self { servers, ..self }
    }

    /// With probes that do not go the way of clients' packets.
    pub fn probed_at_own_addresses(mut self) -> Self {
        self.health += ", via = \"address\"";
        self
    }

    /// Port 5353 of the family's VIP for datagrams; its backends are probed by HTTP.
    pub fn udp(mode: Mode, family: Family) -> Self {
        let mut service = Self::quick(mode, family);
        service.name = "dns".into();
        service.listen = vec![format!("{}/udp", SocketAddr::new(family.vip(), 5353))];
        service
    }

    fn all_of(&self, lab: &Lab) -> Vec<BackendConfig> {
        let backend = |(server, backend): (u8, &Backend)| BackendConfig {
            name: backend.name.clone(),
            server,
            weight: self.weights.get(usize::from(server)).copied().unwrap_or(1),
        };
        (0u8..).zip(lab.backends()).map(backend).collect()
    }

    fn to_toml(&self, lab: &Lab) -> String {
        let listen: Vec<_> = self.listen.iter().map(|text| format!("\"{text}\"")).collect();
        let mut text = format!(
            "\n[[service]]\nname = \"{}\"\nlisten = [{}]\nmode = \"{}\"\nhealth = {{ {} }}\n\
             idle_timeout = \"{}\"\n{}backends = [\n",
            self.name,
            listen.join(", "),
            self.mode,
            self.health,
            self.idle_timeout,
            self.more,
        );
        let backends = self.backends.clone().unwrap_or_else(|| self.all_of(lab));
        for BackendConfig { name, server, weight } in backends {
            let address: IpAddr = lab.topology().backend(server, self.servers);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {{ name = \"{name}\", address = \"{address}\", weight = {weight} }},"
            );
        }
        text + "]\n"
    }
}

/// `interval + 2 × fast_interval + timeout` of [`ServiceConfig::quick`].
pub const QUICK_DETECTION: Duration = Duration::from_millis(300 + 2 * 100 + 500);

impl Lab {
    /// `lb.toml` for these services on the balancer's interfaces.
    pub fn config(&self, services: &[ServiceConfig]) -> String {
        let interfaces = match self.topology().arms {
            Arms::One => r#""eth0""#,
            Arms::Two => r#""eth0", "eth1""#,
        };
        let services: String = services.iter().map(|service| service.to_toml(self)).collect();
        format!("[node]\ninterfaces = [{interfaces}]\n{services}")
    }
}

/// A running `lb run`; killed when dropped.
#[derive(Debug)]
pub struct Balancer {
    binary: PathBuf,
    namespace: Namespace,
    directory: PathBuf,
    process: Process,
}

const CONFIG: &str = "lb.toml";
const SOCKET: &str = "lb.sock";
const STATE: &str = "state";
const LOG: &str = "lb.log";

impl Balancer {
    /// The `lb` under test: `LB_BIN`, as `cargo xtask test` sets it.
    pub fn binary() -> Result<PathBuf> {
        let path = env::var_os("LB_BIN").map(PathBuf::from);
        path.context("LB_BIN does not say where lb is: run the tests with `cargo xtask test`")
    }

    /// Starts the `lb` under test with these services; returns when all their backends are up.
    pub fn serving(lab: &Lab, services: &[ServiceConfig]) -> Result<Self> {
        let balancer = Self::start(lab, &Self::binary()?, &lab.config(services))?;
        balancer.wait_until_up(Duration::from_secs(10))?;
        Ok(balancer)
    }

    /// Starts `lb run` with this configuration in the lab's balancer; returns when it answers.
    pub fn start(lab: &Lab, binary: &Path, config: &str) -> Result<Self> {
        fs::write(lab.path(CONFIG), config)?;
        Self::run(lab, binary)
    }

    /// Starts `lb run` with the configuration and state that an earlier one left in the lab.
    pub fn run(lab: &Lab, binary: &Path) -> Result<Self> {
        Self::run_in(lab.balancer(), &lab.directory(), binary)
    }

    /// Starts `lb run` with this configuration in any namespace, with a directory of its own.
    pub fn start_in(
        namespace: &Namespace,
        directory: &Path,
        binary: &Path,
        config: &str,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join(CONFIG), config)?;
        Self::run_in(namespace, directory, binary)
    }

    fn run_in(namespace: &Namespace, directory: &Path, binary: &Path) -> Result<Self> {
        let mut command = namespace.command(binary);
        command.args(["run", "-c"]).arg(directory.join(CONFIG));
        command.arg("--socket").arg(directory.join(SOCKET));
        command.arg("--state-dir").arg(directory.join(STATE));
        let process = Process::spawn(&mut command, &directory.join(LOG))?;
        let mut balancer = Self {
            binary: binary.to_owned(),
            namespace: namespace.clone(),
            directory: directory.to_owned(),
            process,
        };
        balancer.wait_for_answer()?;
        Ok(balancer)
    }

    /// An `lb run` that must not start: its exit code and what it said.
    pub fn refused(lab: &Lab, binary: &Path, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = lab.balancer().command(binary);
        let log = lab.path("refused.log");
        let mut process = Process::spawn(command.arg("run").args(arguments), &log)?;
        let mut ended = None;
        wait_until(Duration::from_secs(10), || {
            ended = process.exit_status();
            ended.is_some()
        });
        let code = ended.and_then(|status| status.code());
        let code = code.with_context(|| format!("it was not refused:\n{}", process.log()))?;
        Ok((code, process.log()))
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        let limit = Duration::from_secs(20);
        let mut ended = None;
        let answered = wait_until(limit, || {
            ended = self.process.exit_status();
            ended.is_some() || self.status().is_ok()
        });
        if let Some(status) = ended {
            bail!("lb run ended ({status}):\n{}", self.process.log());
        }
        if !answered {
            bail!("lb run does not answer after {limit:?}:\n{}", self.process.log());
        }
        Ok(())
    }

    /// `lb` with the daemon's socket, in the balancer's namespace.
    pub fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.namespace.command(&self.binary);
        command.arg("--socket").arg(self.directory.join(SOCKET)).args(arguments);
        command
    }

    /// Runs `lb …`; the caller judges its exit code.
    pub fn cli(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
        self.command(arguments).output().context("cannot run lb")
    }

    /// Runs `lb … -o json`, which must succeed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.cli(&[arguments, &["-o", "json"]].concat())?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("lb {arguments:?} failed ({}): {}", output.status, reason.trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("lb {arguments:?} did not print JSON"))
    }

    /// `lb apply` of these services, which must succeed.
    pub fn apply(&self, lab: &Lab, services: &[ServiceConfig]) -> Result<Value> {
        let path = lab.path("next.toml");
        fs::write(&path, lab.config(services))?;
        self.json(&["apply", &path.display().to_string()])
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Where it logs to.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// SIGTERM: it must detach and end with 0.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(10))?;
        if !status.success() {
            bail!("lb run ended with {status}:\n{}", self.process.log());
        }
        Ok(())
    }
}
