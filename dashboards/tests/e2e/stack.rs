//! The processes of the test, and their working directory.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::api::{Alertmanager, Prometheus};
use super::support::{RULES, here, read, repository};
use super::time_lapse::faster;

/// The running processes. Dropping it stops them.
pub(crate) struct Stack {
    ports: Ports,
    children: Vec<Child>,
    directory: PathBuf,
}

/// Free ports that replace those in the shipped files.
struct Ports {
    blocking: u16,
    healthy: u16,
    deadlocked: u16,
    prometheus: u16,
    alertmanager: u16,
}

impl Stack {
    pub(crate) fn start() -> Self {
        let directory =
            std::env::temp_dir().join(format!("tower-stall-e2e-{}", std::process::id()));
        let mut stack = Self { ports: Ports::free(), children: Vec::new(), directory };
        stack.write_files();
        stack.start_demos();
        stack.start_servers();
        stack
    }

    pub(crate) fn prometheus(&self) -> Prometheus {
        Prometheus::at(self.ports.prometheus)
    }

    pub(crate) fn alertmanager(&self) -> Alertmanager {
        Alertmanager::at(self.ports.alertmanager)
    }

    /// Writes copies of the shipped files, with the same relative paths.
    fn write_files(&self) {
        let rules = self.directory.join("dashboards/rules");
        let configuration = self.directory.join("examples/observability");
        fs::create_dir_all(&rules).unwrap();
        fs::create_dir_all(&configuration).unwrap();
        for name in RULES {
            let file = Path::new(name).with_extension("yaml");
            fs::write(rules.join(&file), faster(&read(here().join("rules").join(&file)))).unwrap();
        }
        for file in ["prometheus.yml", "alertmanager.yml"] {
            let shipped = read(repository().join("examples/observability").join(file));
            fs::write(configuration.join(file), self.ports.substitute(&faster(&shipped))).unwrap();
        }
    }

    /// Starts the demos with two workers each, as many as a small machine has cores.
    fn start_demos(&mut self) {
        // Cargo puts examples next to the directory of the test binary.
        let demo = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .with_file_name("examples")
            .join("demo");
        assert!(demo.exists(), "{} is missing: ./x e2e builds it", demo.display());
        for (job, port, arguments) in [
            ("demo-blocking", self.ports.blocking, &[][..]),
            ("demo-healthy", self.ports.healthy, &["--no-blocking"]),
            ("demo-deadlocked", self.ports.deadlocked, &["--no-blocking", "--deadlock"]),
        ] {
            let mut command = Command::new(&demo);
            command
                .args(["--port", "0", "--workers", "2", "--metrics-port", &port.to_string()])
                .args(arguments);
            self.spawn(command, job);
        }
    }

    fn start_servers(&mut self) {
        let (prometheus, alertmanager) = (
            program("PROMETHEUS", "prometheus"),
            program("ALERTMANAGER", "prometheus-alertmanager"),
        );
        let configuration = self.directory.join("examples/observability");
        let mut command = Command::new(prometheus);
        command.arg(option("config.file", configuration.join("prometheus.yml").display()));
        command.arg(option("storage.tsdb.path", self.directory.join("prometheus").display()));
        command.arg(option("web.listen-address", format!("127.0.0.1:{}", self.ports.prometheus)));
        self.spawn(command, "prometheus");
        let mut command = Command::new(alertmanager);
        command.arg(option("config.file", configuration.join("alertmanager.yml").display()));
        command.arg(option("storage.path", self.directory.join("alertmanager").display()));
        command.arg(option("web.listen-address", format!("127.0.0.1:{}", self.ports.alertmanager)));
        // Disables clustering, which would listen on all addresses.
        command.arg("--cluster.listen-address=");
        self.spawn(command, "alertmanager");
    }

    fn spawn(&mut self, mut command: Command, name: &str) {
        let log = fs::File::create(self.directory.join(format!("{name}.log"))).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env_remove("RUST_BACKTRACE")
            .spawn();
        self.children.push(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }
}

fn program(variable: &str, name: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| name.to_owned())
}

fn option(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

impl Drop for Stack {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("logs: {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Ports {
    fn free() -> Self {
        // Binds all of them at once, so that they differ.
        let listeners: Vec<_> =
            (0..5).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let port = |index: usize| listeners[index].local_addr().unwrap().port();
        Self {
            blocking: port(0),
            healthy: port(1),
            deadlocked: port(2),
            prometheus: port(3),
            alertmanager: port(4),
        }
    }

    fn substitute(&self, text: &str) -> String {
        let shipped = [
            (9464, self.blocking),
            (9465, self.healthy),
            (9466, self.deadlocked),
            (9093, self.alertmanager),
        ];
        shipped.iter().fold(text.to_owned(), |text, (from, to)| {
            text.replace(&format!("\"127.0.0.1:{from}\""), &format!("\"127.0.0.1:{to}\""))
        })
    }
}
