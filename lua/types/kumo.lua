---@meta kumo
-- Annotations for the Lua language server. Add this folder to `workspace.library`; gatepost itself does not read it.

---@class kumo
local kumo = {}

---@alias kumo.IdentityContext
---| 'HttpBasicAuth'
---| 'BearerToken'
---| 'GenericAuth'
---| 'LocalSystem'
---| 'ProxyAuthRfc1929'
---| 'SmtpAuthPlainAuthentication'
---| 'SmtpAuthPlainAuthorization'

---@class kumo.Identity
---@field identity string
---@field context kumo.IdentityContext

---What a handler returns to say more than yes. At least one identity is required.
---@class kumo.AuthInfo
---@field identities kumo.Identity[]
---@field groups? string[]
---@field peer_address? string

---Registers a handler. Other event names are accepted and never happen here.
---@param event 'http_server_validate_auth_basic'
---@param handler fun(user: string, password: string?): boolean|kumo.AuthInfo
---@overload fun(event: 'http_server_validate_auth_bearer', handler: fun(token: string): false|kumo.AuthInfo)
---@overload fun(event: 'http_message_generated', handler: fun(msg: kumo.Message, auth_info: kumo.AuthInfo))
---@overload fun(event: string, handler: function)
function kumo.on(event, handler) end

---A part of a message's envelope or of `From`; as a text it is its `email`.
---@class kumo.Address
---@field email string    empty for the null sender, as the others
---@field user string
---@field domain string   in lower case

---@class kumo.FromHeader: kumo.Address   its parts raise where there is not exactly one address
---@field list kumo.Address[]

---A message before the MTA. Every other method of KumoMTA's raises here; so does this object once its call is over.
---@class kumo.Message
local message = {}
---`http_auth` (nil where there is no identity), `received_from`, `reception_protocol`, or what was set.
---@param name string
---@return string|number|boolean|nil
function message:get_meta(name) end
---@param name string
---@param value string|number|boolean|nil one line of at most 1024 bytes
function message:set_meta(name, value) end
---@return kumo.Address
function message:sender() end
---The only recipient. With several it raises.
---@return kumo.Address
function message:recipient() end
---@return kumo.Address[]
function message:recipient_list() end
---@return integer
function message:num_recipients() end
---@return kumo.FromHeader?
function message:from_header() end
---@param name string
---@return string? value not decoded
function message:get_first_named_header_value(name) end
---@param name string
---@return string[] values not decoded
function message:get_all_named_header_values(name) end

---@param ... any
function kumo.log_error(...) end
---@param ... any
function kumo.log_warn(...) end
---@param ... any
function kumo.log_info(...) end
---@param ... any
function kumo.log_debug(...) end

---@class kumo.MemoizeOptions
---@field name string            one cache for each name, shared by all workers
---@field ttl string|number      such as '5 minutes'
---@field capacity integer
---@field invalidate_with_epoch? boolean
---@field populate_timeout? string|number
---@field retry_on_populate_timeout? boolean
---@field allow_stale_reads? boolean

---A function that remembers what it returned for its arguments, all of its results. Errors are not remembered, and nothing
---larger than 1 MiB. Every caller gets a copy of its own. It raises where it calls itself with the same arguments.
---@generic F: function
---@param fn F
---@param options kumo.MemoizeOptions
---@return F
function kumo.memoize(fn, options) end

---Raises an error that refuses the message with this code and text.
---@param code integer
---@param text string
function kumo.reject(code, text) end

---@param seconds number
function kumo.sleep(seconds) end

---@return string
function kumo.version() end

---@return integer
function kumo.available_parallelism() end

---@class kumo.Throttle
local throttle = {}
---Whether one more is within the limit now.
---@return boolean
function throttle:throttle() end

---@param name string
---@param spec string such as '50/min'
---@return kumo.Throttle
function kumo.make_throttle(name, spec) end

---@class kumo.serde
kumo.serde = {}
---@param text string
---@return any
function kumo.serde.json_parse(text) end
---@param path string relative to the policy's folder
---@return any
function kumo.serde.json_load(path) end
---@param value any
---@return string
function kumo.serde.json_encode(value) end
---@param value any
---@return string
function kumo.serde.json_encode_pretty(value) end
---@param text string
---@return any
function kumo.serde.toml_parse(text) end
---@param path string relative to the policy's folder
---@return any
function kumo.serde.toml_load(path) end
---@param value any
---@return string
function kumo.serde.toml_encode(value) end
---@param value any
---@return string
function kumo.serde.toml_encode_pretty(value) end
---@param text string
---@return any
function kumo.serde.yaml_parse(text) end
---@param path string relative to the policy's folder
---@return any
function kumo.serde.yaml_load(path) end
---@param value any
---@return string
function kumo.serde.yaml_encode(value) end

---@class kumo.http
kumo.http = {}

---@class kumo.http.ClientOptions
---@field user_agent? string
---@field timeout? string|number
---@field pool_idle_timeout? string|number
---@field accept_invalid_certs? boolean

---@class kumo.http.Client
local client = {}
---@param url string
---@return kumo.http.Request
function client:get(url) end
---@param url string
---@return kumo.http.Request
function client:post(url) end
---@param url string
---@return kumo.http.Request
function client:put(url) end

---@class kumo.http.Request
local request = {}
---@param name string
---@param value string
---@return kumo.http.Request
function request:header(name, value) end
---@param headers table<string, string>
---@return kumo.http.Request
function request:headers(headers) end
---@param user string
---@param password? string
---@return kumo.http.Request
function request:basic_auth(user, password) end
---@param token string
---@return kumo.http.Request
function request:bearer_auth(token) end
---@param body string
---@return kumo.http.Request
function request:body(body) end
---@param form table<string, string>
---@return kumo.http.Request
function request:form_url_encoded(form) end
---@param timeout string|number
---@return kumo.http.Request
function request:timeout(timeout) end
---@return kumo.http.Response
function request:send() end

---@class kumo.http.Response
local response = {}
---@return integer
function response:status_code() end
---@return string?
function response:status_reason() end
---@return boolean
function response:status_is_success() end
---@return boolean
function response:status_is_client_error() end
---@return boolean
function response:status_is_server_error() end
---@return table
function response:headers() end
---@return integer?
function response:content_length() end
---@return string
function response:text() end
---@return string
function response:bytes() end

---Equal options give the same client and share its connections.
---@param options? kumo.http.ClientOptions
---@return kumo.http.Client
function kumo.http.build_client(options) end
---@param base string
---@param params table<string, string>
---@return string
function kumo.http.build_url(base, params) end

---@class kumo.KeyData
---@field key_data string

---@class kumo.VaultKey
---@field vault_mount string
---@field vault_path string
---@field vault_key? string       default 'key'
---@field vault_address? string   default $VAULT_ADDR
---@field vault_token? string     default $VAULT_TOKEN

---@alias kumo.KeySource string|kumo.KeyData|kumo.VaultKey

kumo.secrets = {}
---@param source kumo.KeySource
---@return string
function kumo.secrets.load(source) end

---@class kumo.Digest
---@field bytes string
---@field hex string
---@field base32 string
---@field base32_nopad string
---@field base32hex string
---@field base32hex_nopad string
---@field base64 string
---@field base64_nopad string
---@field base64url string
---@field base64url_nopad string

---@class kumo.digest
---@field sha1 fun(...: string|number): kumo.Digest
---@field sha224 fun(...: string|number): kumo.Digest
---@field sha256 fun(...: string|number): kumo.Digest
---@field sha384 fun(...: string|number): kumo.Digest
---@field sha512 fun(...: string|number): kumo.Digest
---@field sha512_256 fun(...: string|number): kumo.Digest
---@field sha3_256 fun(...: string|number): kumo.Digest
---@field sha3_384 fun(...: string|number): kumo.Digest
---@field sha3_512 fun(...: string|number): kumo.Digest
---@field crc32 fun(...: string|number): kumo.Digest
---@field hmac_sha1 fun(key: kumo.KeySource, message: string|number): kumo.Digest
---@field hmac_sha224 fun(key: kumo.KeySource, message: string|number): kumo.Digest
---@field hmac_sha256 fun(key: kumo.KeySource, message: string|number): kumo.Digest
---@field hmac_sha384 fun(key: kumo.KeySource, message: string|number): kumo.Digest
---@field hmac_sha512 fun(key: kumo.KeySource, message: string|number): kumo.Digest
kumo.digest = {}

---Every name also with `_nopad` before `_encode` and `_decode`, `hex` excepted. Decoding takes a text without its padding as well.
---@class kumo.encode
---@field hex_encode fun(data: string|number): string
---@field hex_decode fun(text: string): string
---@field base32_encode fun(data: string|number): string
---@field base32_decode fun(text: string): string
---@field base32hex_encode fun(data: string|number): string
---@field base32hex_decode fun(text: string): string
---@field base64_encode fun(data: string|number): string
---@field base64_decode fun(text: string): string
---@field base64url_encode fun(data: string|number): string
---@field base64url_decode fun(text: string): string
kumo.encode = {}

---@class kumo.string
---@field split fun(text: string, separator: string): string[]
---@field splitn fun(text: string, limit: integer, separator: string): string[]
---@field rsplit fun(text: string, separator: string): string[]
---@field rsplitn fun(text: string, limit: integer, separator: string): string[]
---@field split_whitespace fun(text: string): string[]
---@field starts_with fun(text: string, prefix: string): boolean
---@field ends_with fun(text: string, suffix: string): boolean
---@field trim fun(text: string): string
---@field trim_start fun(text: string): string
---@field trim_end fun(text: string): string
---@field replace fun(text: string, from: string, to: string): string
---@field replacen fun(text: string, from: string, to: string, count: integer): string
kumo.string = {}

kumo.fs = {}
---@param path string
---@return string[]
function kumo.fs.read_dir(path) end
---@param pattern string
---@return string[]
function kumo.fs.glob(pattern) end
---@param path string
---@return table
function kumo.fs.metadata_for_path(path) end

---@class kumo.Regex
local regex = {}
---@param text string
---@return boolean
function regex:is_match(text) end
---@param text string
---@return table? by index and by name
function regex:captures(text) end
---@param text string
---@return string?
function regex:find(text) end
---@param text string
---@return string[]
function regex:find_all(text) end
---@param text string
---@param with string
---@return string
function regex:replace(text, with) end
---@param text string
---@return string[]
function regex:split(text) end

kumo.regex = {}
---@param pattern string linear time: no back-references, no look-around
---@return kumo.Regex
function kumo.regex.compile(pattern) end

kumo.cidr = {}
---@param networks table<string, any>
---@return table the value of the longest network that holds an address
function kumo.cidr.make_map(networks) end

return kumo
