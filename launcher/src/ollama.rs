//! Ollama is two programs in one file: a server that loads models, and a client that talks to it. GreenBoost can only
//! help the server, which is often already running as a service, without us.

pub mod store;

use crate::procfs::{Process, processes};
use greenboost_contract::settings;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::folders;

/// Subcommands that only talk to a server.
const CLIENT: &[&str] =
    &["run", "pull", "push", "list", "ls", "ps", "stop", "show", "create", "cp", "rm", "signin", "signout", "launch"];
/// Subcommands that are the server.
const SERVER: &[&str] = &["serve", "start"];
const PORT: u16 = 11434;

/// What an `ollama` command line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// Talks to a server.
    Client(&'a str),
    /// Is the server.
    Server,
    /// Something else, such as `--version`.
    Other,
}

/// What the command line of a program named `ollama` does.
pub fn role(arguments: &[String]) -> Role<'_> {
    match arguments.iter().find(|argument| !argument.starts_with('-')).map(String::as_str) {
        Some(word) if CLIENT.contains(&word) => Role::Client(word),
        Some(word) if SERVER.contains(&word) => Role::Server,
        _ => Role::Other,
    }
}

/// Where the server is expected, from `OLLAMA_HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or number.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(to, "[{}]:{}", self.host, self.port)
        } else {
            write!(to, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Reads `OLLAMA_HOST` as Ollama does: scheme, port and path are optional.
    pub fn new(variable: Option<&str>) -> Self {
        let text = variable.unwrap_or_default().trim().trim_matches(['"', '\'']);
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => PORT,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(default_port))
            }
            _ => (rest, default_port),
        };
        let host = match host.trim_matches(['[', ']']) {
            "" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        Self { host: host.to_owned(), port }
    }

    /// Whether the server would be on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host == "::1" || self.host.starts_with("127.")
    }

    /// Whether something answers there.
    pub fn answers(&self) -> bool {
        let Ok(addresses) = (self.host.as_str(), self.port).to_socket_addrs() else { return false };
        addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok())
    }
}

/// A running Ollama server.
#[derive(Debug, Clone)]
pub struct Server {
    /// Process id.
    pub pid: u32,
    /// The systemd service it belongs to.
    pub service: Option<String>,
    /// Whether it was started by gb-launch; `None` when this user may not know.
    pub boosted: Option<bool>,
    /// The folders it may keep its models in.
    pub stores: Vec<PathBuf>,
}

/// The Ollama servers on this machine.
pub fn servers(root: &Path) -> Vec<Server> {
    let is_server = |process: &Process| {
        let arguments = process.arguments();
        process.name().contains("ollama") && role(arguments.get(1..).unwrap_or_default()) == Role::Server
    };
    let active = format!("{}=1", settings::ACTIVE);
    processes(root)
        .into_iter()
        .filter(is_server)
        .map(|process| Server {
            pid: process.pid,
            service: process.service().filter(|unit| unit.contains("ollama")),
            boosted: process.environment().map(|variables| variables.contains(&active)),
            stores: folders(|name| process.variable(name)),
        })
        .collect()
}

/// What to do so that a systemd service runs under GreenBoost; a drop-in, the unit itself stays as it is.
pub const SERVICE_ADVICE: &str =
    "Either stop the service (sudo systemctl stop ollama) and run `gb-launch ollama serve`,
or let the service start it: `sudo systemctl edit ollama`, with full paths of gb-launch and ollama in
    [Service]
    ExecStart=
    ExecStart=/usr/local/bin/gb-launch /usr/local/bin/ollama serve
and then `sudo systemctl restart ollama`.";

/// Why `gb-launch ollama ARGUMENTS` would do nothing, and what to do instead; `None` when it is fine.
pub fn objection(root: &Path, arguments: &[String], host: Option<&str>) -> Option<String> {
    let address = Address::new(host);
    match role(arguments) {
        Role::Other => None,
        Role::Client(word) => Some(client_objection(root, word, &address)),
        Role::Server if address.answers() => Some(server_objection(root, &address)),
        Role::Server => None,
    }
}

fn client_objection(root: &Path, word: &str, address: &Address) -> String {
    let start =
        format!("`ollama {word}` is only a client: models are loaded by the Ollama server, not by this command.\n");
    if !address.is_local() {
        return start
            + &format!("OLLAMA_HOST points to {address}: start the server there with `gb-launch ollama serve`.");
    }
    let rest = if !address.answers() {
        format!(
            "No server answers at {address}. Run `gb-launch ollama serve` in another terminal, then `ollama {word}` as usual."
        )
    } else {
        match servers(root).first() {
            Some(Server { pid, boosted: Some(true), .. }) => {
                format!(
                    "The server (process {pid}) already runs with GreenBoost: run `ollama {word}` without gb-launch."
                )
            }
            Some(Server { pid, service: Some(service), .. }) => {
                format!(
                    "The server at {address} is the service {service} (process {pid}), started without GreenBoost.\n{SERVICE_ADVICE}"
                )
            }
            Some(Server { pid, .. }) => format!(
                "The server at {address} (process {pid}) was not started by gb-launch. Stop it, run `gb-launch ollama serve`, then `ollama {word}` as usual."
            ),
            None => format!(
                "Something answers at {address}. If it is an Ollama server, stop it, run `gb-launch ollama serve`, then `ollama {word}` as usual."
            ),
        }
    };
    start + &rest
}

fn server_objection(root: &Path, address: &Address) -> String {
    let start = format!("`ollama serve` cannot start: {address} is already in use");
    match servers(root).first() {
        Some(Server { pid, boosted: Some(true), .. }) => {
            format!("{start} by a server that runs with GreenBoost (process {pid}).\nUse that one, or stop it first.")
        }
        Some(Server { pid, service: Some(service), .. }) => {
            format!("{start} by the service {service} (process {pid}).\n{SERVICE_ADVICE}")
        }
        Some(Server { pid, .. }) => {
            format!("{start} by process {pid}.\nStop that server first, or set OLLAMA_HOST to another port.")
        }
        None => format!("{start}.\nStop what uses it, or set OLLAMA_HOST to another port."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn clients_and_servers_are_told_apart() {
        assert_eq!(role(&words("run llama3 serve")), Role::Client("run"));
        assert_eq!(role(&words("--verbose list")), Role::Client("list"));
        assert_eq!(role(&words("serve")), Role::Server);
        assert_eq!(role(&words("--version")), Role::Other);
        assert_eq!(role(&words("runner --model x")), Role::Other);
        assert_eq!(role(&[]), Role::Other);
    }

    #[test]
    fn the_address_is_read_as_ollama_reads_it() {
        for (text, expected) in [
            ("", "127.0.0.1:11434"),
            ("0.0.0.0", "127.0.0.1:11434"),
            (":8080", "127.0.0.1:8080"),
            ("box:1234", "box:1234"),
            ("http://box", "box:80"),
            ("https://box/path", "box:443"),
            ("http://box:9/path", "box:9"),
            ("[::1]:7", "[::1]:7"),
            ("[::]", "[::1]:11434"),
            ("::1", "[::1]:11434"),
            ("\"1.2.3.4\"", "1.2.3.4:11434"),
        ] {
            assert_eq!(Address::new(Some(text)).to_string(), expected, "{text}");
        }
        assert!(Address::new(None).is_local() && !Address::new(Some("box")).is_local());
    }

    #[test]
    fn a_service_and_a_boosted_server_are_recognised() {
        let root = tempfile::tempdir().expect("folder");
        let process = |pid: u32, cgroup: &str, environ: &str| {
            let folder = root.path().join("proc").join(pid.to_string());
            fs::create_dir_all(&folder).expect("folder");
            fs::write(folder.join("comm"), "ollama\n").expect("comm");
            fs::write(folder.join("cmdline"), "/usr/bin/ollama\0serve\0").expect("cmdline");
            fs::write(folder.join("cgroup"), cgroup).expect("cgroup");
            fs::write(folder.join("environ"), environ).expect("environ");
        };
        process(10, "0::/system.slice/ollama.service\n", "PATH=/bin\0");
        process(11, "0::/user.slice/x.scope\n", "A=b\0GREENBOOST_ACTIVE=1\0");
        let found = servers(root.path());
        assert_eq!(found[0].service.as_deref(), Some("ollama.service"));
        assert_eq!(found[0].boosted, Some(false));
        assert_eq!((found[1].pid, found[1].boosted), (11, Some(true)));
    }
}
