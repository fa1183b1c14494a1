---@meta gatepost

---@class gatepost
local gatepost = {}

gatepost.password = {}

---Whether the password belongs to the stored hash: argon2, bcrypt, scrypt, pbkdf2, sha256-crypt, sha512-crypt, apr1, `{SHA}`, `{SSHA}`.
---With `nil` as the hash it takes as long as a wrong password, and is false.
---@param stored string?
---@param password string?
---@return boolean
function gatepost.password.verify(stored, password) end

---@class gatepost.HashOptions
---@field algorithm? string default 'argon2id'

---@param password string
---@param options? gatepost.HashOptions
---@return string
function gatepost.password.hash(password, options) end

---Whether both are there and equal, in constant time.
---@param a string?
---@param b string?
---@return boolean
function gatepost.equal(a, b) end

---@class gatepost.Htpasswd
local htpasswd = {}
---@param user string
---@param password string?
---@return boolean
function htpasswd:verify(user, password) end

---A file as Apache's htpasswd makes it; read again when it changes. Cheap: what was read is shared.
---@param path string relative to the policy's folder
---@return gatepost.Htpasswd
function gatepost.htpasswd(path) end

return gatepost
