//! The items that this package's tests and micro-benchmarks use, under the paths that they have
//! inside. They are no part of the crate's interface. Everything else is private to it, so that the
//! compiler finds unused items.

pub mod auth {
    pub mod authenticator {
        pub use crate::auth::authenticator::ConnectionType;
    }
    pub mod jwt {
        use crate::auth::account_jwt::options_of;
        use crate::auth::jwt::claims::{
            AccountClaims, ActivationClaims, OperatorClaims, UserClaims,
        };
        use crate::auth::jwt::template::{self, TemplateValues};
        use crate::auth::jwt::{times, validate};

        /// Decodes a text as each kind of JWT, and uses what it says.
        pub fn examine(text: &str) {
            let _ = OperatorClaims::decode(text);
            if let Ok(claims) = ActivationClaims::decode(text) {
                let _ = validate::activation(&claims, 0);
            }
            if let Ok(claims) = AccountClaims::decode(text) {
                let _ = validate::account(&claims, 0);
                let _ = options_of(&claims);
            }
            if let Ok(claims) = UserClaims::decode(text) {
                let _ = validate::user(&claims, 0);
                let rights = &claims.user.rights;
                let zone = tz::TimeZone::utc();
                let _ = times::allowed_for(&rights.times, &rights.times_location, &zone, 5);
                let tags = &claims.user.tags;
                let values =
                    TemplateValues { user: &claims, account_name: "a", account_tags: tags };
                let _ = template::apply(rights, values);
            }
        }
    }
    pub mod password {
        pub use crate::auth::password::{PasswordJob, PasswordOutcome};
    }
    pub mod permissions {
        pub use crate::auth::permissions::{Permissions, SubscribeRight};
    }
    pub mod state {
        pub use crate::auth::state::AuthState;
    }
}
pub mod base {
    pub use crate::base::limits;
    pub mod counters {
        pub use crate::base::counters::{Gauge, HandoverTicket, Handovers};
    }
    pub mod gate {
        pub use crate::base::gate::Gate;
    }
    pub mod histogram {
        pub use crate::base::histogram::{DurationHistogram, Durations};
    }
    pub mod ids {
        pub use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId, LoginId, ShardId};
    }
    pub mod log {
        pub use crate::base::log::{LineFormat, LogSettings, Logger};
    }
    pub mod pool {
        pub use crate::base::pool::BufferPool;
    }
    pub mod ring {
        pub use crate::base::ring::{ParkFlag, RingSource, RingTarget, Signal, Watermark};
    }
    pub mod turn_clock {
        pub use crate::base::turn_clock::TurnClock;
    }
}
pub mod broker {
    pub use crate::broker::{Broker, BrokerHandle};
    pub mod byte_queue {
        pub use crate::broker::byte_queue::{RemotePublisher, Resumable};
    }
    pub mod fan_out {
        pub use crate::broker::fan_out::FanOut;
    }
    pub mod link {
        pub use crate::broker::link::{
            Congestion, InterestChange, LinkSink, Mark, Source, Target, Unheard,
        };
    }
    pub mod mailbox {
        pub use crate::broker::mailbox::{Letters, Mailbox};
    }
    pub mod match_cache {
        pub use crate::broker::match_cache::{CachedBytes, MatchCache};
    }
    pub mod frame {
        pub use crate::broker::frame::{
            Cursor, HEAD_BYTES, Last, Part, Taken, append, append_again, append_one_again,
            is_again, read_on, size, size_again, size_one_again,
        };
    }
    pub mod message_trace {
        pub use crate::broker::message_trace::{Ingress, TraceEvent, TraceNote};
    }
    pub mod outbox {
        pub use crate::broker::outbox::Outbox;
    }
    pub mod outbox_totals {
        pub use crate::broker::outbox_totals::OutboxTotals;
    }
    pub mod passage {
        pub use crate::broker::passage::{Origin, Routed};
    }
    pub mod route_cache {
        pub use crate::broker::route_cache::RouteCache;
    }
    pub mod service {
        pub use crate::broker::service::{
            Published, Reach, ServiceInterest, ServicePublisher, ServiceSubscription,
        };
    }
    pub mod watch {
        pub use crate::broker::watch::{Watch, Watcher};
    }
    pub mod subject_table {
        pub use crate::broker::subject_table::{Slot, SubjectTable};
    }
    pub mod turn {
        pub use crate::broker::turn::{Turn, pace_target};
    }
}
pub mod client {
    pub mod guest {
        pub use crate::client::guest::{Guest, HandoverOrder};
    }
    pub mod hosted {
        pub use crate::client::hosted::{Hosted, HostedStep};
    }
    pub mod context {
        pub use crate::client::context::{ClientContext, Placer};
    }
    pub mod session {
        pub use crate::client::session::ClientSession;
    }
}
pub mod config {
    pub mod auth_options {
        pub use crate::config::auth_options::{
            AccountOptions, PermissionOptions, Place, Secret, SubjectPermissionOptions, UserOptions,
        };
    }
    pub mod import_options {
        pub use crate::config::import_options::{
            ExportKind, ExportOptions, ImportKind, ImportOptions, ResponseType,
            ServiceExportOptions,
        };
    }
    pub mod later {
        pub use crate::config::later::LATER;
    }
    pub mod load {
        pub use crate::config::load::{Loaded, load_file, validate};
    }
    pub mod option_table {
        pub use crate::config::option_table::rows;
    }
    pub mod options {
        pub use crate::config::options::{
            Balance, IoDriver, LogFormat, Options, PAYLOAD_BYTES_UNLIMITED, WriteTimeoutPolicy,
        };
    }
    pub mod surroundings {
        pub use crate::config::surroundings::{Surroundings, SystemSurroundings};
    }
    pub mod tls_options {
        pub use crate::config::tls_options::{HandshakeFirst, TlsVersion, Verify};
    }
}
pub mod mesh {
    pub use crate::mesh::{LaneEnds, Lanes, Mesh, lanes};
}
pub mod monitor {
    pub mod endpoints {
        pub use crate::monitor::endpoints::plan;
    }
    pub mod http {
        pub use crate::monitor::http::RequestReader;
    }
}
pub mod net {
    pub mod frames {
        pub use crate::net::frames::{
            Decoded, Deflaters, FrameLimits, FrameSettings, Frames, Upgrade,
        };
    }
    pub mod listener {
        pub use crate::net::listener::Peer;
    }
    pub mod read_buffer {
        pub use crate::net::read_buffer::ReadBuffer;
    }
    pub mod session {
        pub use crate::net::session::{Session, Step, Wait};
    }
    pub mod tls {
        pub use crate::net::tls::TlsFacts;
    }
    pub mod tls_config {
        pub use crate::net::tls_config::TlsServer;
    }
}
pub mod peer {
    pub mod checks {
        pub use crate::peer::checks::{LoginJob, LoginOutcome, PasswordChecks};
    }
    pub mod upgrade {
        pub use crate::peer::upgrade::WebSocketServer;
    }
}
pub mod protocol {
    pub mod headers {
        pub use crate::protocol::headers::append;
    }
    pub mod message {
        pub use crate::protocol::message::{Message, MessageRun, Tail};
    }
    pub mod nats {
        pub mod command {
            pub use crate::protocol::nats::command::Command;
        }
        pub mod encode {
            pub use crate::protocol::nats::encode::copy_payload;
        }
        pub mod error {
            pub use crate::protocol::nats::error::{CloseReason, ProtocolError};
        }
        pub mod handshake {
            pub use crate::protocol::nats::handshake::{ConnectOptions, Info};
        }
        pub mod parser {
            pub use crate::protocol::nats::parser::{Parsed, Parser, ParserLimits};
        }
        pub mod plain {
            pub use crate::protocol::nats::plain::plain_publish;
        }
    }
    pub mod subject {
        pub use crate::protocol::subject::matches;
    }
}
pub mod server {
    pub mod command {
        pub mod args {
            pub use crate::server::command::args::{Invocation, parse_in};
        }
    }
}
pub mod storage {
    pub mod check {
        pub use crate::storage::check::LaneReport;
    }
    pub mod consumer_state {
        pub use crate::storage::consumer_state::ConsumerChange;
    }
    pub mod disk {
        pub use crate::storage::disk::{Access, Disk, DiskBuffer, SECTOR_BYTES};
    }
    pub mod frame {
        pub use crate::storage::frame::{
            FrameFields, HEADER_BYTES, LaneSeed, StoreId, checksum, header, push_record, records,
            seal,
        };
    }
    pub mod journal {
        pub use crate::storage::journal::Urgency;
    }
    pub mod journal_file {
        pub use crate::storage::journal_file::{FileHeader, number_of};
    }
    pub mod lane {
        pub use crate::storage::lane::Lane;
    }
    pub mod manifest {
        pub use crate::storage::manifest::ManifestName;
    }
    pub mod memory_disk {
        pub use crate::storage::memory_disk::MemoryDisk;
    }
    pub mod position {
        pub use crate::storage::position::CommitNumber;
    }
    pub mod record {
        pub use crate::storage::record::{ConsumerId, StreamId};
    }
    pub mod recovery {
        pub use crate::storage::recovery::{JournalPlace, Recovered, recover};
    }
    pub mod replay {
        pub use crate::storage::replay::{Accepted, AcceptedDamage, Replayed, replay};
    }
    pub mod ring_disk {
        pub use crate::storage::ring_disk::RingDisk;
    }
    pub mod segment {
        pub use crate::storage::segment::number_of;
    }
    pub mod store {
        pub use crate::storage::store::{Store, StoreError, SyncInterval};
        pub mod checkpoint {
            pub use crate::storage::store::checkpoint::keep_checkpoints;
        }
        pub mod loading {
            pub use crate::storage::store::loading::load;
        }
    }
    pub mod stream {
        pub use crate::storage::stream::{NewMessage, Search, Stream, StreamLimits};
        pub mod expectations {
            pub use crate::storage::stream::expectations::{Expected, GroupMessage};
        }
        pub mod pending {
            pub use crate::storage::stream::pending::Pending;
        }
    }
    pub mod thread_disk {
        pub use crate::storage::thread_disk::{ThreadDisk, WriteMode};
    }
    pub mod turns {
        pub use crate::storage::turns::yield_now;
    }
}
pub mod system {
    pub mod request {
        pub use crate::system::request::{OTHER_ACCOUNTS_SUBJECTS, system_account_filters};
    }
}
