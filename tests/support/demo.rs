//! The two small examples, which make credentials by a command.

use super::{Home, Server};

/// An example and the folder that it keeps its data in.
pub(crate) struct Demo(Home);

impl Demo {
    pub(crate) fn of(example: &'static str) -> Self {
        Self(Home::of(example))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.0
    }

    /// Runs a command of the example's, and returns what it printed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> String {
        self.0.launch().arguments(arguments).printed().await
    }

    /// Runs one that has to be refused.
    pub(crate) async fn refused(&self, arguments: &[&str]) {
        let ended = self.0.launch().arguments(arguments).refused().await;
        assert_eq!(ended.stdout, "");
        ended.without_panic();
    }

    /// A key of a role, whose user is called like the role, with ten dollars.
    pub(crate) async fn key(&self, role: &str) -> String {
        let money = ["--balance", "10"];
        let arguments = ["generate-key", "--role", role, "--user", role];
        self.command(&[&arguments[..], &money[..]].concat()).await
    }

    pub(crate) async fn start(&self, settings: &[(&str, &str)]) -> Server {
        let launch = self.0.launch();
        let set = settings
            .iter()
            .fold(launch, |launch, (name, value)| launch.env(name, value));
        set.start().await
    }
}
