//! Reads the fields of a node that starts a run.

use super::fields::Fields;
use super::retry;
use crate::definition::{ChildVersion, ClosePolicy, SubflowDefinition, SubflowMode};

/// The fields that only such a node has.
pub(super) const FIELDS: [&str; 6] = ["workflow", "version", "mode", "close_policy", "timeout", "retry"];

pub(super) fn subflow(fields: &mut Fields<'_, '_>) -> SubflowDefinition {
    let workflow = fields.needed_text("workflow");
    let version = match fields.text("version").as_deref() {
        None | Some("pinned") => ChildVersion::Pinned,
        Some("latest") => ChildVersion::Latest,
        Some(_) => {
            fields.wrong("version", "there is no such choice", "use \"pinned\" or \"latest\"");
            ChildVersion::Pinned
        }
    };
    let mode = match fields.text("mode").as_deref() {
        None | Some("wait") => SubflowMode::Wait,
        Some("detached") => SubflowMode::Detached,
        Some(_) => {
            fields.wrong("mode", "there is no such mode", "use \"wait\" or \"detached\"");
            SubflowMode::Wait
        }
    };
    let close_policy = match fields.text("close_policy").as_deref() {
        None => mode.usual_policy(),
        Some("terminate") => ClosePolicy::Terminate,
        Some("abandon") => ClosePolicy::Abandon,
        Some("request_cancel") => ClosePolicy::RequestCancel,
        Some(_) => {
            let fix = "use \"terminate\", \"abandon\" or \"request_cancel\"";
            fields.wrong("close_policy", "there is no such policy", fix);
            mode.usual_policy()
        }
    };
    SubflowDefinition {
        workflow,
        version,
        mode,
        close_policy,
        timeout: fields.duration("timeout"),
        retry: retry(fields),
    }
}
