//! The names of everything that telemetry sends. Those of OpenTelemetry are from its semantic
//! conventions for messaging, version 1.44, which are still in development: if they change, only
//! this file does.

/// The schema that the names of OpenTelemetry are from.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// The name of the instrumentation scope of all spans.
pub const SCOPE: &str = "redeliver";

/// Attributes of OpenTelemetry.
pub mod otel {
    /// The messaging system: always `redeliver`.
    pub const SYSTEM: &str = "messaging.system";
    /// What a span does, as a word of ours.
    pub const OPERATION_NAME: &str = "messaging.operation.name";
    /// What a span does, as a word of OpenTelemetry.
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    /// The queue: the prefix of the keys in Redis.
    pub const DESTINATION_NAME: &str = "messaging.destination.name";
    /// The message, as a keyed hash if not configured otherwise.
    pub const MESSAGE_ID: &str = "messaging.message.id";
    /// The job: the same for all its attempts.
    pub const CONVERSATION_ID: &str = "messaging.message.conversation_id";
    /// How many jobs a claim returned.
    pub const BATCH_COUNT: &str = "messaging.batch.message_count";
    /// The host that the mail was offered to, by SMTP or HTTP.
    pub const SERVER_ADDRESS: &str = "server.address";
    /// Its port.
    pub const SERVER_PORT: &str = "server.port";
    /// Why something failed, as one of a few words.
    pub const ERROR_TYPE: &str = "error.type";
    /// The method of an HTTP request.
    pub const HTTP_METHOD: &str = "http.request.method";
    /// The status code of the answer to it.
    pub const HTTP_STATUS: &str = "http.response.status_code";
    /// The URL of an HTTP request, without user, password, query and fragment.
    pub const URL: &str = "url.full";
    /// The file name of a program that sends.
    pub const PROGRAM: &str = "process.executable.name";
    /// Its exit code.
    pub const EXIT_CODE: &str = "process.exit.code";
}

/// Attributes of our own.
pub mod own {
    /// The three digits of the SMTP reply (RFC 5321, section 4.2).
    pub const REPLY_CODE: &str = "smtp.reply.code";
    /// The enhanced status code of the reply (RFC 3463).
    pub const REPLY_ENHANCED_CODE: &str = "smtp.reply.enhanced_code";
    /// The fingerprint of the reply's text, if the settings allow it.
    pub const REPLY_TEXT: &str = "smtp.reply.text";
    /// The last phase of the SMTP conversation that was started.
    pub const PHASE: &str = "smtp.phase";
    /// The version of TLS.
    pub const TLS: &str = "smtp.tls";
    /// How long the message waited for a connection that was free or could be opened, in seconds.
    pub const WAITED: &str = "smtp.connection.wait.duration";
    /// Whether the connection had carried an earlier message.
    pub const REUSED: &str = "smtp.connection.reused";
    /// How long it took until the head of an HTTP answer was read, in seconds.
    pub const HTTP_ANSWERED: &str = "http.phase.answer.duration";
    /// How long it took to read its body, in seconds.
    pub const HTTP_READ: &str = "http.phase.body.duration";
    /// The number of the attempt. The platform's own was 0.
    pub const ATTEMPT_NUMBER: &str = "redeliver.attempt.number";
    /// How many attempts the schedule of the last failure has.
    pub const ATTEMPT_MAX: &str = "redeliver.attempt.max";
    /// The mail system that the attempt belongs to.
    pub const DESTINATION: &str = "redeliver.destination";
    /// The row of the policy that judged the outcome.
    pub const POLICY_ROW: &str = "redeliver.policy.row";
    /// What the policy decided.
    pub const VERDICT: &str = "redeliver.verdict";
    /// What a bounce led to.
    pub const ANSWER: &str = "redeliver.answer";
    /// The shard that jobs were claimed from.
    pub const SHARD: &str = "redeliver.shard";
    /// How late the attempt began, in seconds.
    pub const LATE: &str = "redeliver.late";
    /// What a link leads to: `origin` or `previous`.
    pub const LINK: &str = "retry.link";

    /// Returns the attribute with the duration of a phase of the SMTP conversation, in seconds.
    pub fn phase_duration(phase: &str) -> String {
        format!("smtp.phase.{phase}.duration")
    }
}
