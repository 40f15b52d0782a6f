//! Who may do what on the server: one function, asked everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::SiteId;

/// What a person or a program with a token is.
///
/// They have no order: an auditor reads what a technician may not, who does what an auditor may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees how sites stand.
    Viewer,
    /// Sees everything of its sites, evidence and audit trail included; changes nothing.
    Auditor,
    /// Sees its sites and sends orders to them.
    Technician,
    /// Everything, and may say yes to what needs a second person.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Auditor, Self::Technician, Self::Admin];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Technician => "technician",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// No role is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; there are viewer, auditor, technician and admin")]
pub struct BadRole(String);

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(word: &str) -> Result<Self, BadRole> {
        Self::ALL.into_iter().find(|role| role.word() == word).ok_or_else(|| BadRole(word.to_owned()))
    }
}

/// Something somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// See how sites and appliances stand.
    SeeFleet,
    /// See orders and what became of them.
    SeeOrders,
    /// Read evidence.
    SeeEvidence,
    /// Read who did what.
    SeeAudit,
    /// Ask for an order.
    Order,
    /// Say yes or no to an order another person asked for.
    ApproveOrder,
    /// Add sites, make enrolment tokens, revoke appliances.
    ManageFleet,
    /// Add people and tokens.
    ManagePeople,
}

impl Deed {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SeeFleet,
        Self::SeeOrders,
        Self::SeeEvidence,
        Self::SeeAudit,
        Self::Order,
        Self::ApproveOrder,
        Self::ManageFleet,
        Self::ManagePeople,
    ];
}

/// Which sites somebody may act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// All there are and will be.
    All,
    /// These.
    Some(Vec<SiteId>),
}

impl Sites {
    /// Whether a site is among them.
    pub fn includes(&self, site: &SiteId) -> bool {
        match self {
            Self::All => true,
            Self::Some(sites) => sites.contains(site),
        }
    }

    /// The stored form: `*`, or ids with commas between them.
    pub fn stored(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::Some(sites) => sites.iter().map(SiteId::as_str).collect::<Vec<_>>().join(","),
        }
    }

    /// Reads the stored form; `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        text.split(',').map(|site| site.parse().ok()).collect::<Option<Vec<SiteId>>>().map(Self::Some)
    }
}

/// The two roles behind a request: a token does what its person may and it was made for, never what only one of them may.
/// Roles are no ladder, so the two do not come down to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// The person's.
    pub person: Role,
    /// The token's.
    pub token: Role,
}

impl Roles {
    /// The role that does not allow a deed; `None` where both do.
    pub fn refusing(self, deed: Deed) -> Option<Role> {
        [self.person, self.token].into_iter().find(|role| !may(*role, deed))
    }
}

/// Whether a role allows a deed at all; where, its [`Sites`] say.
pub fn may(role: Role, deed: Deed) -> bool {
    match deed {
        Deed::SeeFleet => true,
        Deed::SeeOrders | Deed::SeeEvidence => role != Role::Viewer,
        Deed::SeeAudit => matches!(role, Role::Auditor | Role::Admin),
        Deed::Order => matches!(role, Role::Technician | Role::Admin),
        Deed::ApproveOrder | Deed::ManageFleet | Deed::ManagePeople => role == Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_what() {
        let table: Vec<String> = Role::ALL
            .into_iter()
            .map(|role| {
                let deeds: Vec<String> =
                    Deed::ALL.into_iter().filter(|deed| may(role, *deed)).map(|deed| format!("{deed:?}")).collect();
                format!("{role:<10} {}", deeds.join(" "))
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        viewer     SeeFleet
        auditor    SeeFleet SeeOrders SeeEvidence SeeAudit
        technician SeeFleet SeeOrders SeeEvidence Order
        admin      SeeFleet SeeOrders SeeEvidence SeeAudit Order ApproveOrder ManageFleet ManagePeople
        ");
    }

    #[test]
    fn a_token_does_only_what_both_roles_allow() {
        for person in Role::ALL {
            for token in Role::ALL {
                for deed in Deed::ALL {
                    let refusing = Roles { person, token }.refusing(deed);
                    assert_eq!(refusing.is_none(), may(person, deed) && may(token, deed), "{person} {token} {deed:?}");
                    assert!(refusing.is_none_or(|role| !may(role, deed)), "{person} {token} {deed:?}");
                }
            }
        }
    }

    #[test]
    fn sites_go_round_and_one_that_cannot_be_read_is_none_at_all() {
        for text in ["*", "north", "north,south-1"] {
            assert_eq!(Sites::read(text).unwrap().stored(), text);
        }
        for bad in ["", "north,", "North", "*,north", "../x"] {
            assert_eq!(Sites::read(bad), None, "{bad}");
        }
        let some = Sites::read("north").unwrap();
        assert!(some.includes(&"north".parse().unwrap()) && !some.includes(&"south".parse().unwrap()));
    }
}
