//! What can be typed, as clap sees it; the help is written for someone in a hurry.

use std::path::PathBuf;
use std::time::Duration;

use anstream::ColorChoice;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use super::run::LogFormat;
use super::types::{BackendSpec, HealthSpec, Target, weight};
use crate::config::model::{
    Address, Family, Frontend, Mode, Prefix, Protocol, ServerId, XdpPolicy,
};
use crate::config::parse_duration;

pub(crate) const DEFAULT_SOCKET: &str = "/run/holdfast/lb.sock";
pub(crate) const DEFAULT_CONFIG: &str = "/etc/holdfast/lb.toml";

const AFTER: &str = "\
Examples:
  sudo lb run -c /etc/holdfast/lb.toml         balance, by a configuration file
  lb status                                    what is wrong, and what to do
  sudo lb backend drain web/web-02 --reason \"kernel update\"
  sudo lb backend ready web/web-02             take it back
  lb check lb.toml && sudo lb apply lb.toml    change the configuration

Exit codes:
  0  done
  1  the daemon or the system refused, or something failed
  2  bad arguments, or an invalid configuration
  3  no daemon answers on the socket: is `lb run` running?
  4  no such service or backend

With -o json results go to stdout and errors to stderr, both as JSON.
The socket is --socket, else $HOLDFAST_SOCKET, else /run/holdfast/lb.sock.";

/// Holdfast, a layer-4 load balancer: XDP in front, health-checked backends behind.
#[derive(Debug, Parser)]
#[command(name = "lb", version, after_help = AFTER, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = false, infer_subcommands = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print text for people, or JSON for programs
    #[arg(short, long, global = true, default_value = "text", value_name = "text|json", hide_possible_values = true,
          value_parser = choice(&FORMATS))]
    pub(crate) output: Format,
    /// The daemon's socket [default: $HOLDFAST_SOCKET or /run/holdfast/lb.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// When to use colour; `auto` is on a terminal, and heeds NO_COLOR
    #[arg(long, global = true, default_value = "auto", value_name = "auto|always|never", hide_possible_values = true,
          value_parser = choice(&COLORS))]
    pub(crate) color: ColorChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Decap(Box<DecapArgs>),
    /// Show what is wrong and what to do, then every service and backend
    ///
    /// Changes nothing. With --watch again every second, with rates; -o json --watch prints one
    /// line of JSON a second.
    Status {
        /// Again every second, with rates, until interrupted
        #[arg(short, long)]
        watch: bool,
    },
    /// Look at services
    #[command(subcommand, arg_required_else_help = true)]
    Service(ServiceCommand),
    /// Look at backends, change them, take them out and back
    #[command(subcommand, arg_required_else_help = true)]
    Backend(BackendCommand),
    /// Keep health checks from acting for a while, and let them act again
    #[command(subcommand, arg_required_else_help = true)]
    Health(HealthCommand),
    /// Show what is wrong now, and who was told of it
    ///
    /// Changes nothing. Who is told is `[[alert]]` in the configuration.
    Alerts {
        #[command(subcommand)]
        command: Option<AlertsCommand>,
    },
    /// Keep sources out of all services
    #[command(subcommand, arg_required_else_help = true)]
    Block(BlockCommand),
    /// Replace the configuration in force by a file's
    ///
    /// The file is checked first, here and by the daemon; nothing changes unless all of it is
    /// valid. `[node]` can't change while the daemon runs. Established connections stay, those of
    /// a backend that leaves or gets another address on the server that they are on. Survives a
    /// restart.
    #[command(after_help = "Example:\n  lb apply lb.toml --dry-run && sudo lb apply lb.toml")]
    Apply {
        /// The whole configuration, as for `lb run`
        file: PathBuf,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Read the file of `lb run` again, as SIGHUP does
    ///
    /// The file's services become the configuration if the file was edited since it was last
    /// taken; then it also wins over what `lb apply` and `lb backend` changed. A changed `[node]`
    /// takes a restart. What becomes of connections: as for `lb apply`.
    Reload,
    /// Check a configuration file: no root, no daemon, nothing is changed
    ///
    /// Says everything that is wrong at once, with line and column. Exit code 2 if anything is.
    Check {
        file: PathBuf,
    },
    /// Print the configuration in force as TOML, with what `lb backend` changed
    #[command(after_help = "Example:\n  lb config > lb.toml")]
    Config,
    /// Say which backend a flow goes to, and every step of why
    ///
    /// Computed by the program's own hash from the state in force. Changes nothing.
    #[command(after_help = "Example:\n  lb explain tcp 198.51.100.7:40000 192.0.2.10:80")]
    Explain {
        #[arg(value_name = "tcp|udp", hide_possible_values = true,
              value_parser = choice(&PROTOCOLS))]
        protocol: Protocol,
        /// The client's address and port
        client: std::net::SocketAddr,
        /// The VIP and port it talks to
        vip: std::net::SocketAddr,
    },
    /// Print the version
    Version,
}

/// Attach to the interfaces and balance, until stopped
///
/// Runs in the foreground and needs root. SIGHUP reads the file again, SIGTERM stops and leaves
/// the interfaces as they were.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lb run -c lb.toml
  sudo lb run --interface eth0 --listen 192.0.2.10:80/tcp --mode nat \\
      --backend 10.0.0.11 --backend 10.0.0.12:8080")]
pub(crate) struct RunArgs {
    /// Configuration file [default: /etc/holdfast/lb.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["interface", "listen", "mode", "backend", "service", "health"])]
    pub(crate) config: Option<PathBuf>,
    /// Interface to attach to; may be repeated
    #[arg(long, value_name = "IF", requires_all = ["listen", "mode", "backend"], help_heading = "Without a file")]
    pub(crate) interface: Vec<String>,
    /// VIP, port and protocol; a prefix, a range of ports or * will do; may be repeated
    #[arg(
        long,
        value_name = "ADDR:PORT/tcp|udp",
        requires = "interface",
        help_heading = "Without a file"
    )]
    pub(crate) listen: Vec<Frontend>,
    /// nat: backends need nothing; dsr: they carry the VIP on lo and answer clients directly;
    /// ipip, gue: the same through a tunnel, to backends on any network
    #[arg(long, value_name = "nat|dsr|ipip|gue", requires = "interface", hide_possible_values = true, help_heading = "Without a file",
          value_parser = choice(&MODES))]
    pub(crate) mode: Option<Mode>,
    /// Backend's address or host name, with a port if it isn't the VIP's; may be repeated
    #[arg(
        long,
        value_name = "ADDR[:PORT]",
        requires = "interface",
        help_heading = "Without a file"
    )]
    pub(crate) backend: Vec<BackendSpec>,
    /// Name of the service [default: web]
    #[arg(long, value_name = "NAME", requires = "interface", help_heading = "Without a file")]
    pub(crate) service: Option<String>,
    /// How backends are probed [default: tcp, or none for udp]
    #[arg(
        long,
        value_name = "tcp|http:/PATH|none",
        requires = "interface",
        help_heading = "Without a file"
    )]
    pub(crate) health: Option<HealthSpec>,
    /// XDP mode, instead of the file's: native only, native else generic, generic only
    #[arg(long, value_name = "native|auto|generic", hide_possible_values = true,
          value_parser = choice(&XDP_POLICIES))]
    pub(crate) xdp: Option<XdpPolicy>,
    /// Where changes by the command line are kept across restarts
    #[arg(long, value_name = "DIR", default_value = "/var/lib/holdfast")]
    pub(crate) state_dir: PathBuf,
    /// Log for people or for programs
    #[arg(long, value_name = "text|json", default_value = "text", hide_possible_values = true,
          value_parser = choice(&LOG_FORMATS))]
    pub(crate) log_format: LogFormat,
    /// Log more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// On a backend: take clients' packets out of the balancer's tunnels
///
/// Attaches to an interface and gives the kernel what IP-in-IP and GUE packets from the balancers
/// hold, so that a backend of mode ipip or gue needs no tunnel interface: only the VIP on lo. Runs
/// in the foreground and needs root. SIGTERM stops it and leaves the interface as it was. Prints
/// its counters then, and on SIGUSR1.
#[derive(Debug, Args)]
#[command(
    override_usage = "lb decap [OPTIONS] --from <ADDR|PREFIX,…> <IF>",
    after_help = "Example:\n  sudo lb decap eth0 --from 10.0.0.2,10.0.0.3,2001:db8:9::/64"
)]
pub(crate) struct DecapArgs {
    /// The interface that tunnels come by; a bond stands for its members
    #[arg(value_name = "IF")]
    pub(crate) interface: String,
    /// Outer source addresses to take tunnels from: the balancers'; may be repeated
    #[arg(long, value_name = "ADDR|PREFIX,…", value_delimiter = ',')]
    pub(crate) from: Vec<Prefix>,
    /// UDP port of GUE
    #[arg(long, value_name = "PORT", default_value = "6080",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) gue_port: u16,
    /// XDP mode: native only, native else generic, generic only
    #[arg(long, value_name = "native|auto|generic", default_value = "native", hide_possible_values = true,
          value_parser = choice(&XDP_POLICIES))]
    pub(crate) xdp: XdpPolicy,
    /// Log for people or for programs
    #[arg(long, value_name = "text|json", default_value = "text", hide_possible_values = true,
          value_parser = choice(&LOG_FORMATS))]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services and their traffic; changes nothing
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// List the backends, of one service or of all; changes nothing
    List {
        /// Only this service's
        service: Option<String>,
    },
    /// Add a backend: it takes its share of new connections once its probes pass
    ///
    /// Some 1/N of new connections go to it; established ones stay. Survives a restart.
    #[command(
        after_help = "Example:\n  sudo lb backend add web/web-03 --address 10.0.0.13 --weight 2"
    )]
    Add {
        /// The backend, such as web/web-01
        #[arg(value_name = "SERVICE/NAME")]
        target: Target,
        /// Its address, or a host name whose address it follows
        #[arg(long)]
        address: Address,
        /// Which addresses of a host name: ipv4 or ipv6; by default those of the VIP's family
        #[arg(long)]
        family: Option<Family>,
        /// Its port, if it isn't the VIP's (nat only)
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Relative share of new connections, 1 to 1000
        #[arg(long, default_value = "1", value_parser = weight)]
        weight: u16,
        /// Keep it in reserve until too few of the others are well
        #[arg(long)]
        backup: bool,
        /// Its QUIC server id in hexadecimal, if the service has `quic`
        #[arg(long, value_name = "HEX")]
        server_id: Option<ServerId>,
    },
    /// Remove a backend at once; to let its connections finish, drain it first
    ///
    /// Drain it, wait for `idle_timeout` and until `lb status` shows no more flows, then remove it.
    /// Its established connections stay on its server until they end, drained or not, as long as
    /// that serves. Survives a restart.
    #[command(
        after_help = "Example:\n  sudo lb backend drain web/web-02   # wait for idle_timeout, and until no flows are left\n  sudo lb backend remove web/web-02"
    )]
    Remove {
        /// The backend, such as web/web-01
        #[arg(value_name = "SERVICE/NAME")]
        target: Target,
        /// Even if too few would be left
        #[arg(long)]
        force: bool,
    },
    /// Change a backend's relative share of new connections
    ///
    /// Established ones stay. Survives a restart.
    Weight {
        /// The backend, such as web/web-01
        #[arg(value_name = "SERVICE/NAME")]
        target: Target,
        /// 1 to 1000
        #[arg(value_parser = weight)]
        weight: u16,
    },
    /// Send a backend no new connections; the ones it has finish
    ///
    /// Survives a restart, and ends with `lb backend ready`, never by itself.
    #[command(
        after_help = "Example:\n  sudo lb backend drain web/web-02 --reason \"kernel update\" --for 30m"
    )]
    Drain(TakeOut),
    /// Drain a backend that will be rebooted or repaired: that its probes fail is no news
    ///
    /// Survives a restart, and ends with `lb backend ready`, never by itself.
    #[command(
        after_help = "Example:\n  sudo lb backend maint web/web-02 --reason \"new disk\" --for 2h"
    )]
    Maint(TakeOut),
    /// End a drain or maintenance: it takes new connections again if its probes pass
    Ready {
        /// The backend, such as web/web-01
        #[arg(value_name = "SERVICE/NAME")]
        target: Target,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TakeOut {
    /// The backend, such as web/web-01
    #[arg(value_name = "SERVICE/NAME")]
    pub(crate) target: Target,
    /// Shown in `lb status` to whoever wonders later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Warn if it has not been taken back after this time, such as 30m or 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub(crate) lasts: Option<Duration>,
    /// Even if too few would be left
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    /// Keep backends in and out as they are, whatever their probes find
    ///
    /// Probes go on, and `lb status` shows what they find. Ends by itself. Survives a restart.
    #[command(
        after_help = "Example:\n  sudo lb health freeze web --for 30m --reason \"network maintenance\""
    )]
    Freeze {
        /// Only this service; all if not given
        service: Option<String>,
        /// When it ends by itself, such as 30m or 2h
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = lasting)]
        lasts: Duration,
        /// Shown in `lb status` to whoever wonders later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let health act again, by what probes find now
    Thaw {
        /// Only this service; all if not given
        service: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// Send a test message to every target, and say what became of it
    ///
    /// One attempt each. Exit code 1 if a target did not take it.
    Test,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlockCommand {
    /// List who is blocked, why and until when; changes nothing
    List,
    /// Drop every packet from these sources to any VIP, pings included
    ///
    /// Their open connections stall at once. Blocking the same again changes its reason or end.
    /// Survives a restart.
    #[command(
        after_help = "Example:\n  sudo lb block add 198.51.100.0/24 --reason \"scans\" --for 12h"
    )]
    Add {
        /// An address or a prefix
        prefix: Prefix,
        /// Shown in `lb block list` to whoever wonders later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// End it by itself after this time, such as 90s, 10m or 12h
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
        lasts: Option<Duration>,
        /// Even if a backend's address or this host's own is in it
        #[arg(long)]
        force: bool,
    },
    /// Let these sources in again; the prefix as it was blocked
    Remove {
        /// An address or a prefix, as `lb block list` shows it
        prefix: Prefix,
    },
}

/// A time that is not none.
fn lasting(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it would end at once: write how long, such as 30m".into()),
        time => Ok(time),
    }
}

const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];
const COLORS: [(&str, ColorChoice); 3] =
    [("auto", ColorChoice::Auto), ("always", ColorChoice::Always), ("never", ColorChoice::Never)];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const MODES: [(&str, Mode); 4] =
    [("nat", Mode::Nat), ("dsr", Mode::Dsr), ("ipip", Mode::Ipip), ("gue", Mode::Gue)];
const XDP_POLICIES: [(&str, XdpPolicy); 3] =
    [("native", XdpPolicy::Native), ("auto", XdpPolicy::Auto), ("generic", XdpPolicy::Generic)];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// One of a few words, refused with the list of them and the nearest.
fn choice<T: Copy + Send + Sync + 'static>(
    choices: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(choices.iter().map(|(name, _)| *name)).try_map(move |text| {
        let chosen = choices.iter().find(|(name, _)| *name == text);
        chosen.map(|(_, value)| *value).ok_or("not one of the choices")
    })
}
