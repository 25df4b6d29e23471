//! The real client with every kind of credential, before and after a reload.

mod support;

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use futures_util::StreamExt;
use rustix::process::Signal;
use support::WAIT_MAX;
use support::certificates::{Authority, Pair, Wanted};
use support::server::{Directory, Server};

/// Returns an nkey user whose seed is 32 bytes of 7.
fn nkey() -> nkeys::KeyPair {
    nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, [7; 32]).expect("any bytes are a seed")
}

/// How clients of one kind prove who they are.
struct Kind {
    name: &'static str,
    /// The configuration that lets it in, and one that no longer does; `%` stands for more users.
    lets_in: String,
    no_longer: String,
    options: Box<dyn Fn() -> ConnectOptions>,
    /// The same with something wrong.
    wrong: Box<dyn Fn() -> ConnectOptions>,
}

fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).expect("cost 4 is allowed")
}

fn kinds(files: &Files) -> Vec<Kind> {
    let public = nkey().public_key();
    let seed = nkey().seed().expect("the pair has its seed");
    let stranger = nkeys::KeyPair::new_user().seed().expect("the pair has its seed");
    let token = |text: &'static str| move || ConnectOptions::with_token(text.into());
    let user = |name: &'static str, password: &'static str| {
        move || ConnectOptions::with_user_and_password(name.into(), password.into())
    };
    let (alice, bob) = (files.client("alice"), files.client("bob"));
    let certificate = |(certificate, key): (std::path::PathBuf, std::path::PathBuf)| {
        let authority = files.authority.clone();
        move || {
            ConnectOptions::new()
                .require_tls(true)
                .add_root_certificates(authority.clone())
                .add_client_certificate(certificate.clone(), key.clone())
        }
    };
    let tls = &files.tls;
    vec![
        Kind {
            name: "token",
            lets_in: "authorization { token: right }".into(),
            no_longer: "authorization { token: renewed }".into(),
            options: Box::new(token("right")),
            wrong: Box::new(token("wrong")),
        },
        Kind {
            name: "hashed token",
            lets_in: format!("authorization {{ token: \"{}\" }}", hash("right")),
            no_longer: format!("authorization {{ token: \"{}\" }}", hash("renewed")),
            options: Box::new(token("right")),
            wrong: Box::new(token("wrong")),
        },
        Kind {
            name: "single user",
            lets_in: "authorization { user: app, password: right }".into(),
            no_longer: "authorization { user: app, password: renewed }".into(),
            options: Box::new(user("app", "right")),
            wrong: Box::new(user("app", "wrong")),
        },
        Kind {
            name: "one of several users",
            lets_in: "authorization { users: [ {user: a, password: right} % ] }".into(),
            no_longer: "authorization { users: [ {user: a, password: renewed} % ] }".into(),
            options: Box::new(user("a", "right")),
            wrong: Box::new(user("b", "right")),
        },
        Kind {
            name: "user with a hashed password",
            lets_in: format!(
                "authorization {{ users: [ {{user: a, password: \"{}\"}} % ] }}",
                hash("right")
            ),
            no_longer: "authorization { users: [ {user: other, password: right} % ] }".into(),
            options: Box::new(user("a", "right")),
            wrong: Box::new(user("a", "wrong")),
        },
        Kind {
            name: "user of an account",
            lets_in: "accounts { A { users: [ {user: a, password: right} % ] }, B {} }".into(),
            no_longer: "accounts { A {}, B { users: [ {user: b, password: right} % ] } }".into(),
            options: Box::new(user("a", "right")),
            wrong: Box::new(user("a", "wrong")),
        },
        Kind {
            name: "nkey",
            lets_in: format!("authorization {{ users: [ {{nkey: {public}}} % ] }}"),
            no_longer: "authorization { users: [ {user: a, password: b} % ] }".into(),
            options: Box::new(move || ConnectOptions::with_nkey(seed.clone())),
            wrong: Box::new(move || ConnectOptions::with_nkey(stranger.clone())),
        },
        Kind {
            name: "no_auth_user",
            lets_in: "authorization { users: [ {user: a, password: right} % ] }\nno_auth_user: a"
                .into(),
            // A client that named nobody is decided again: it now stands for a user that may not
            // use this type of connection.
            no_longer: "authorization { users: [ {user: a, password: right, \
                        allowed_connection_types: [MQTT]} % ] }\nno_auth_user: a"
                .into(),
            options: Box::new(ConnectOptions::new),
            wrong: Box::new(user("a", "wrong")),
        },
        Kind {
            name: "certificate",
            lets_in: format!("{tls}\nauthorization {{ users: [ {{user: \"CN=alice\"}} % ] }}"),
            no_longer: format!("{tls}\nauthorization {{ users: [ {{user: \"CN=carol\"}} % ] }}"),
            options: Box::new(certificate(alice)),
            wrong: Box::new(certificate(bob)),
        },
    ]
}

/// Certificates on disk.
struct Files {
    directory: Directory,
    issuer: Authority,
    authority: std::path::PathBuf,
    tls: String,
}

impl Files {
    fn new() -> Self {
        let directory = Directory::new().expect("a directory");
        let issuer = Authority::new("test authority");
        let authority = directory.join("ca.pem");
        std::fs::write(&authority, &issuer.pem).expect("a file");
        let files = Self { directory, authority, tls: String::new(), issuer };
        let (certificate, key) = files.write("server", &files.issuer.issue_local());
        let authority = &files.authority;
        let tls = format!(
            "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {authority:?}, \
             verify_and_map: true }}"
        );
        Self { tls, ..files }
    }

    fn write(&self, name: &str, pair: &Pair) -> (std::path::PathBuf, std::path::PathBuf) {
        let files = [self.directory.join(format!("{name}.pem")), self.directory.join(name)];
        std::fs::write(&files[0], &pair.certificate_pem).expect("a file");
        std::fs::write(&files[1], &pair.key_pem).expect("a file");
        files.into()
    }

    fn client(&self, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let wanted = Wanted { common_name: name, client: true, ..Wanted::default() };
        self.write(name, &self.issuer.issue(wanted))
    }
}

/// Sends a message to itself and waits for it.
async fn round_trip(client: &Client, subject: &'static str) {
    let echo = async {
        let mut messages = client.subscribe(subject).await.expect("subscribed");
        client.publish(subject, "x".into()).await.expect("published");
        messages.next().await.expect("the message")
    };
    tokio::time::timeout(WAIT_MAX, echo).await.expect("the message comes in time");
}

fn reload(server: &Server, config: &str) {
    let start = server.log().line_count();
    server.rewrite_config(config).expect("the file can be written");
    server.signal(Signal::HUP).expect("the server runs");
    let said = server.log().wait_for(start, WAIT_MAX, |line| {
        let is_it = line.contains("Reloaded server configuration")
            || line.contains("Failed to reload server configuration");
        is_it.then(|| line.to_owned())
    });
    let said = said.expect("the log says something of the reload");
    assert!(said.contains("Reloaded server configuration"), "{said}\n{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_credential_lets_in_and_a_reload_is_obeyed() {
    let files = Files::new();
    for kind in kinds(&files) {
        let with = |config: &str, users: &str| config.replace('%', users);
        let name = kind.name;
        println!("{name}");
        let server = Server::midge(2, &with(&kind.lets_in, ""));
        let scheme = if kind.lets_in.contains("tls {") { "tls" } else { "nats" };
        let url = format!("{scheme}://{}", server.address());
        let connect = |options: ConnectOptions| {
            options.connection_timeout(WAIT_MAX).max_reconnects(1).connect(&url)
        };

        let refused = connect((kind.wrong)()).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(ConnectErrorKind::AuthorizationViolation), "{name}");
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let options = (kind.options)().event_callback(move |event| {
            let _ = sender.send(event.to_string());
            async {}
        });
        let client = connect(options).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        round_trip(&client, "before").await;

        // Another user is added: this client is not affected, and its reload took effect.
        reload(&server, &with(&kind.lets_in, ", {user: more, password: more}"));
        round_trip(&client, "after").await;
        while let Ok(event) = events.try_recv() {
            assert_eq!(event, "connected", "{name}: nobody was disturbed");
        }
        let again = connect((kind.options)()).await;
        round_trip(&again.unwrap_or_else(|error| panic!("{name}: {error}")), "again").await;

        reload(&server, &with(&kind.no_longer, ""));
        let gone = async {
            while let Some(event) = events.recv().await {
                if event == "disconnected" {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it is closed in time");
        let refused = connect((kind.options)()).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(ConnectErrorKind::AuthorizationViolation), "{name}");
    }
}
