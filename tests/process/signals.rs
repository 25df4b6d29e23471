//! Signals that nobody needs: what they do to nats-server 2.15.3, they do here.

use super::*;

#[test]
fn signals_without_a_meaning_are_ignored() {
    let server = start(&[]);
    let mut client = RawClient::connect(server.address()).unwrap();
    client.round_trip().unwrap();
    let ignored = [
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::XCPU,
        Signal::XFSZ,
        Signal::PIPE,
        Signal::CHILD,
        Signal::CONT,
        Signal::URG,
        Signal::WINCH,
    ];
    for signal in ignored {
        server.signal(signal).unwrap();
        client.round_trip().unwrap_or_else(|error| panic!("{signal:?}: {error}"));
    }
    // The signals' thread has taken all of them by then.
    server.signal(Signal::USR1).unwrap();
    wait_until("the next signal to be taken", || log(&server).contains("user defined signal 1"));
    client.round_trip().unwrap();
}

#[test]
fn quit_ends_the_server_at_once_with_the_exit_code_of_a_go_program() {
    let mut server = start(&[]);
    let mut client = RawClient::connect(server.address()).unwrap();
    client.round_trip().unwrap();
    server.signal(Signal::QUIT).unwrap();
    assert_eq!(exit_code(&mut server), Some(2));
    let text = log(&server);
    assert!(text.contains("[FTL] SIGQUIT: quit") && !text.contains("Server Exiting"), "{text}");
}
