//! What a server chooses by itself in a message that crosses from account to account, masked: the reply, times, the
//! sizes that follow from them.

use serde_json::Value;

/// Takes whole lines and messages out of `raw`, and appends them masked to `unread`. `reply` becomes the last reply of
/// the server's own among them.
pub fn take(raw: &mut Vec<u8>, unread: &mut Vec<u8>, reply: &mut Vec<u8>) {
    while let Some(size) = unit_size(raw) {
        let unit: Vec<u8> = raw.drain(..size).collect();
        unread.extend_from_slice(&masked(&unit, reply));
    }
}

/// The size of the line or message that `raw` begins with, if all of it is there.
fn unit_size(raw: &[u8]) -> Option<usize> {
    let line_size = raw.iter().position(|byte| *byte == b'\n')? + 1;
    let line = String::from_utf8_lossy(&raw[..line_size]);
    if !line.starts_with("MSG ") && !line.starts_with("HMSG ") {
        return Some(line_size);
    }
    let body: usize = line.trim_end().rsplit(' ').next()?.parse().ok()?;
    (raw.len() >= line_size + body + 2).then_some(line_size + body + 2)
}

fn masked(unit: &[u8], reply: &mut Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(unit);
    let Some((line, body)) = text.split_once("\r\n") else { return unit.to_vec() };
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if words[0] != "MSG" && words[0] != "HMSG" {
        return unit.to_vec();
    }
    if let Some(word) = words.iter_mut().skip(3).find(|word| word.starts_with("_R_.")) {
        *reply = word.clone().into_bytes();
        *word = "_R_.ID".into();
    }
    if words[0] == "MSG" {
        // nats-server leaves a blank for a reply that is not there.
        words.retain(|word| !word.is_empty());
        if let Some(record) = masked_record(body) {
            *words.last_mut().expect("a size") = record.len().to_string();
            return [words.join(" "), "\r\n".into(), record, "\r\n".into()].concat().into_bytes();
        }
        return [words.join(" ").as_bytes(), b"\r\n", body.as_bytes()].concat();
    }
    let last = words.len() - 1;
    let (Ok(head), Ok(all)) = (words[last - 1].parse::<usize>(), words[last].parse::<usize>())
    else {
        return unit.to_vec();
    };
    let mut headers = body[..head].to_owned();
    for name in ["rtt", "id"] {
        mask(&mut headers, &format!("\"{name}\":"), |byte| byte.is_ascii_digit());
    }
    for name in ["start", "host", "server"] {
        mask(&mut headers, &format!("\"{name}\":\""), |byte| byte != b'"');
    }
    mask_reply(&mut headers);
    words[last] = (all - head + headers.len()).to_string();
    words[last - 1] = headers.len().to_string();
    [words.join(" "), "\r\n".into(), headers, body[head..].to_owned()].concat().into_bytes()
}

/// Makes the first reply of the server's own in a text `_R_.ID`.
fn mask_reply(text: &mut String) {
    if let Some(start) = text.find("_R_.") {
        mask_reply_at(text, start);
    }
}

fn mask_reply_at(text: &mut String, start: usize) {
    let is_in_it = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'.' || **byte == b'_';
    let size = text.as_bytes()[start..].iter().take_while(is_in_it).count();
    text.replace_range(start..start + size, "_R_.ID");
}

/// Returns an answer of the server, the record of a traced message, or the metric of a request, with the members of its objects in order, its
/// receivers too, and masked; None for any other body.
fn masked_record(body: &str) -> Option<String> {
    let mut record: Value = serde_json::from_str(body).ok()?;
    let is_metric = record["type"] == "io.nats.server.metric.v1.service_latency";
    if record["events"].is_array() {
        record["server"] = "N".into();
        let events = record["events"].as_array_mut()?;
        events.iter_mut().for_each(|event| mask_members(event, &["ts", "cid"]));
        // nats-server gives receivers in no certain order.
        events.sort_by_key(|event| (event["type"] == "eg").then(|| event.to_string()));
    } else if is_metric {
        let names = ["id", "timestamp", "start", "service", "system", "total"];
        mask_members(&mut record, &names);
        for client in ["requestor", "responder"] {
            let names = ["start", "host", "id", "rtt", "server"];
            if let Some(client) = record.get_mut(client) {
                mask_members(client, &names);
            }
        }
    } else if record["server"].is_object() {
        record["server"] = "N".into();
        sort_texts(&mut record);
    } else {
        return None;
    }
    let mut text = record.to_string();
    let mut from = 0;
    while let Some(at) = text[from..].find("_R_.").map(|at| from + at) {
        mask_reply_at(&mut text, at);
        from = at + 1;
    }
    Some(text)
}

/// Sorts lists of texts: nats-server gives those of permissions in no certain order.
fn sort_texts(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(sort_texts),
        Value::Array(items) => items.sort_by_key(Value::to_string),
        _ => {}
    }
}

fn mask_members(value: &mut Value, names: &[&str]) {
    let Some(members) = value.as_object_mut() else { return };
    for name in names {
        if let Some(member) = members.get_mut(*name) {
            *member = "N".into();
        }
    }
}

/// Makes what follows `name` an `N`, as far as `is_value` says.
fn mask(text: &mut String, name: &str, is_value: fn(u8) -> bool) {
    if let Some(start) = text.find(name).map(|at| at + name.len()) {
        let size = text.as_bytes()[start..].iter().take_while(|byte| is_value(**byte)).count();
        text.replace_range(start..start + size, "N");
    }
}
