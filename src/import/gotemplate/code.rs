//! A minijinja expression as text, with what must be known to combine it with others.
//!
//! Owns precedence, quoting, and the shapes of what Consul's functions give: Go's `range` goes over the values of a map and
//! minijinja's `for` over its keys, so that the translator has to know which of the two it meets. It must not know Go.

/// How tightly an expression holds together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Or,
    And,
    Not,
    Compare,
    Concat,
    Filter,
    Atom,
}

/// What is known of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Unknown,
    Text,
    Number,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// What `service` gives, and the services of a `node`.
    Instance,
    /// What `services` gives.
    Entry,
    Node,
    NodeDetail,
    Pair,
}

impl Shape {
    pub fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub fn map(of: Self) -> Self {
        Self::Map(Box::new(of))
    }

    /// The shape of a field, and whether it may be missing.
    pub fn field(&self, name: &str) -> (Self, bool) {
        match self {
            Self::Map(of) => ((**of).clone(), true),
            Self::Unknown | Self::Text | Self::Number | Self::List(_) => (Self::Unknown, true),
            Self::Instance | Self::Entry | Self::Node | Self::NodeDetail | Self::Pair => {
                let shape = match name {
                    "Tags" => Self::list(Self::Text),
                    "ServiceMeta" | "NodeMeta" | "Meta" | "NodeTaggedAddresses" | "TaggedAddresses" => {
                        Self::map(Self::Text)
                    }
                    "Services" => Self::list(Self::Instance),
                    "Node" if *self == Self::NodeDetail => Self::Node,
                    "Checks" => Self::list(Self::Unknown),
                    "ServiceTaggedAddresses" | "Weights" => Self::Unknown,
                    "Port" => Self::Number,
                    _ => Self::Text,
                };
                (shape, false)
            }
        }
    }

    /// What `for` gives one by one.
    pub fn element(&self) -> Self {
        match self {
            Self::List(of) | Self::Map(of) => (**of).clone(),
            Self::Number => Self::Number,
            _ => Self::Unknown,
        }
    }

    /// A name for a variable that holds it.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Entry => "entry",
            Self::Node => "member",
            Self::NodeDetail => "detail",
            Self::Pair => "pair",
            Self::Number => "number",
            Self::List(of) if **of == Self::Instance => "instances",
            Self::List(of) if **of == Self::Entry => "entries",
            Self::List(of) if **of == Self::Node => "members",
            Self::List(of) if **of == Self::Pair => "pairs",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Unknown | Self::Text => "item",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub text: String,
    pub level: Level,
    pub shape: Shape,
    /// Go gives an empty value when it is missing, and minijinja, being strict, an error.
    pub missing: bool,
}

impl Code {
    pub fn new(text: impl Into<String>, level: Level, shape: Shape) -> Self {
        Self { text: text.into(), level, shape, missing: false }
    }

    pub fn atom(text: impl Into<String>, shape: Shape) -> Self {
        Self::new(text, Level::Atom, shape)
    }

    pub fn literal(text: &str) -> Self {
        Self::atom(quote(text), Shape::Text)
    }

    /// As an operand of something that holds at this level.
    pub fn at(&self, level: Level) -> String {
        if self.level < level { format!("({})", self.text) } else { self.text.clone() }
    }

    /// `name(arguments)`.
    pub fn call(name: &str, arguments: &[Self], shape: Shape) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(|argument| argument.text.as_str()).collect();
        Self::atom(format!("{name}({})", arguments.join(", ")), shape)
    }

    /// `self | name(arguments)`.
    pub fn filter(&self, name: &str, arguments: &[Self], shape: Shape) -> Self {
        let text = match arguments {
            [] => format!("{} | {name}", self.at(Level::Filter)),
            _ => format!("{} | {}", self.at(Level::Filter), Self::call(name, arguments, Shape::Unknown).text),
        };
        Self::new(text, Level::Filter, shape)
    }

    /// Operands with an operator between them.
    pub fn joined(operator: &str, level: Level, operands: &[Self]) -> Self {
        // Comparisons have no side on which they hold together.
        let inner = if level == Level::Compare { Level::Concat } else { level };
        let texts: Vec<String> = operands.iter().map(|operand| operand.at(inner)).collect();
        Self::new(texts.join(&format!(" {operator} ")), level, Shape::Unknown)
    }

    pub fn field(&self, name: &str) -> Self {
        let (shape, missing) = self.shape.field(name);
        let owner = self.at(Level::Atom);
        let text = match reserved(name) {
            true => format!("{owner}[{}]", quote(name)),
            false => format!("{owner}.{name}"),
        };
        Self { text, level: Level::Atom, shape, missing }
    }

    /// Where Go takes "missing" for "empty": conditions and comparisons.
    pub fn lenient(&self) -> Self {
        match self.missing {
            true => self.filter("default", &[Self::atom("none", Shape::Unknown)], self.shape.clone()),
            false => self.clone(),
        }
    }

    /// A name or fields of one: asked twice, it gives the same at no cost.
    pub fn is_plain(&self) -> bool {
        self.text.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'))
    }
}

/// A text as minijinja writes it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// A word of minijinja that no variable can have as its name.
pub fn reserved(word: &str) -> bool {
    const WORDS: [&str; 24] = [
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "elif",
        "for",
        "endfor",
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
        "loop",
        "self",
        "super",
        "set",
        "with",
        "import",
        "include",
        "recursive",
    ];
    WORDS.contains(&word)
}
