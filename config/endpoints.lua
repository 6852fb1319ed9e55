-- Balances nginx's upstreams over endpoints that can change without a reload. Part of a generation of reeve's: edits are
-- found and undone.
--
-- The whole set is one text. reeve writes it to a file, which is read when nginx starts, and sends it to the probe. In the
-- shared memory of the generation it stands in one of two slots; one small value names the slot, so that workers see either
-- the old set or the new one. Each worker takes it apart once, and an upstream that did not change keeps its state.
--
-- Each method does what nginx's own module of that name does, in the same order, with its defaults: max_fails=1,
-- fail_timeout=10s, one try for each endpoint.

local dict_name, generation, file = ...

local balancer = require "ngx.balancer"
local bit = require "bit"
local ffi = require "ffi"

local cast, address = ffi.cast, ffi.typeof("uintptr_t")
local get_last_failure = balancer.get_last_failure
local get_request = require("resty.core.base").get_request
local set_current_peer = balancer.set_current_peer
local set_more_tries = balancer.set_more_tries
local ngx_now, ngx_time = ngx.now, ngx.time

local MAX_FAILS = 1
local FAIL_TIMEOUT = 10
-- So often nginx's modules look for another endpoint before they take turns instead.
local MOST_LOOKS = 20
local POINTS = 160

local dict = ngx.shared[dict_name]
local reeve = {}

-- ------------------------------------------------------------------------------------------------- the set

-- The hash that the text says of itself; nil: it is not whole, or somebody has edited it.
local function hash_of(text)
    local hash, check, start = text:match("^reeve endpoints (%x+) (%x+)\n()")
    if not hash or ngx.crc32_long(text:sub(start)) ~= tonumber(check, 16) then
        return nil
    end
    return hash
end

local function put(text, hash)
    local current = dict:get("current")
    local slot = current and current:sub(1, 1) == "a" and "b" or "a"
    -- Never at the cost of the set in force: `set` would evict it.
    local stored, reason = dict:safe_set(slot, text)
    if stored then
        stored, reason = dict:safe_set("current", slot .. hash)
    end
    return stored, reason
end

local function in_force()
    local current = dict:get("current")
    return current and current:sub(2) or "none"
end

local function load_file()
    local handle, reason = io.open(file, "r")
    local text = handle and handle:read("*a")
    if handle then
        handle:close()
    end
    local hash = text and hash_of(text)
    if not hash then
        -- What this generation had before a reload stays. After a start there is nothing: every upstream is empty until
        -- reeve sends the set.
        ngx.log(ngx.ERR, "reeve: ", file, ": ", reason or "not a whole set of endpoints")
        return
    end
    if dict:get("current") and in_force() == hash then
        return
    end
    local stored
    stored, reason = put(text, hash)
    if not stored then
        error("reeve: the endpoints do not fit into the shared memory: " .. reason)
    end
end

-- ------------------------------------------------------------------------------------------------- a worker's view

local version
-- When that was looked at: once in a millisecond is often enough, and much cheaper under load.
local looked_at
-- By name: the upstream's part of the set.
local sections = {}
-- By name: what was made of it.
local upstreams = {}

local function peers_of(section, before)
    local known = {}
    for _, peer in ipairs(before and before.peers or {}) do
        known[peer.name .. " " .. peer.weight] = peer
    end
    local peers, total = {}, 0
    for address, port, weight in section:gmatch("(%S+) (%d+) (%d+) %S+\n") do
        local host = address:find(":", 1, true) and "[" .. address .. "]" or address
        local name = host .. ":" .. port
        weight = tonumber(weight)
        local peer = known[name .. " " .. weight] or {
            name = name, host = host, port = tonumber(port),
            weight = weight, effective = weight, current = 0,
            fails = 0, accessed = 0, checked = 0, connections = 0,
        }
        peers[#peers + 1] = peer
        total = total + weight
    end
    return peers, total
end

local function refresh(name)
    local current = dict:get("current")
    if current ~= version then
        local text = current and dict:get(current:sub(1, 1)) or ""
        sections = {}
        for title, section in text:gmatch("upstream (%S+)\n([^;]*);\n") do
            sections[title] = section
        end
        version = current
    end
    local section = sections[name] or ""
    local upstream = upstreams[name]
    if not upstream or upstream.section ~= section then
        local peers, total = peers_of(section, upstream)
        upstream = { section = section, peers = peers, count = #peers, total = total }
        upstreams[name] = upstream
    end
    return upstream
end

local function get(name)
    local upstream = upstreams[name]
    local now = ngx_now()
    if upstream and upstream.version == version and looked_at == now then
        return upstream
    end
    if dict:get("current") ~= version or not upstream or upstream.version ~= version then
        upstream = refresh(name)
        upstream.version = version
    end
    looked_at = now
    return upstream
end

-- ------------------------------------------------------------------------------------------------- choosing

local function failing(peer, now)
    return peer.fails >= MAX_FAILS and now - peer.checked <= FAIL_TIMEOUT
end

local function chosen(peer, now)
    if now - peer.checked > FAIL_TIMEOUT then
        peer.checked = now
    end
    return peer
end

-- Smooth weighted round robin among those that `fits` lets through.
local function turns(upstream, state, now, fits)
    local best, total = nil, 0
    local tried = state and state.tried
    local peers = upstream.peers
    for i = 1, upstream.count do
        local peer = peers[i]
        if not (tried and tried[peer]) and not failing(peer, now) and (not fits or fits(peer)) then
            local effective = peer.effective
            peer.current = peer.current + effective
            total = total + effective
            if effective < peer.weight then
                peer.effective = effective + 1
            end
            if not best or peer.current > best.current then
                best = peer
            end
        end
    end
    if best then
        best.current = best.current - total
        return chosen(best, now)
    end
end

local methods = {}

methods.round_robin = turns

function methods.least_conn(upstream, state, now)
    local tried = state and state.tried
    local best, many = nil, false
    for _, peer in ipairs(upstream.peers) do
        if not (tried and tried[peer]) and not failing(peer, now) then
            local one = best and peer.connections * best.weight
            local other = best and best.connections * peer.weight
            if not best or one < other then
                best, many = peer, false
            elseif one == other then
                many = true
            end
        end
    end
    if not best then
        return nil
    end
    if not many then
        -- As one among itself.
        if best.effective < best.weight then
            best.effective = best.effective + 1
        end
        return chosen(best, now)
    end
    local least = best
    return turns(upstream, state, now, function(peer)
        return peer.connections * least.weight == least.connections * peer.weight
    end)
end

function methods.ip_hash(upstream, state, now)
    local tried = state.tried
    state.looks = state.looks or 0
    if not state.key then
        local address = ngx.var.binary_remote_addr
        state.key = #address == 4 and address:sub(1, 3) or address
        state.hash = 89
    end
    while state.looks <= MOST_LOOKS do
        local hash = state.hash
        for i = 1, #state.key do
            hash = (hash * 113 + state.key:byte(i)) % 6271
        end
        state.hash = hash
        local weight, at = hash % upstream.total, 1
        while weight >= upstream.peers[at].weight do
            weight = weight - upstream.peers[at].weight
            at = at + 1
        end
        local peer = upstream.peers[at]
        if not (tried and tried[peer]) and not failing(peer, now) then
            return chosen(peer, now)
        end
        state.looks = state.looks + 1
    end
    return turns(upstream, state, now)
end

local seeded

local function random_peer(upstream)
    if not seeded then
        -- Workers are copies of one process, and would all draw the same.
        math.randomseed(ngx.worker.pid() + ngx_time())
        seeded = true
    end
    local at = math.random(0, upstream.total - 1)
    for _, peer in ipairs(upstream.peers) do
        at = at - peer.weight
        if at < 0 then
            return peer
        end
    end
end

function methods.random(upstream, state, now)
    local tried = state.tried
    state.looks = state.looks or 0
    while state.looks <= MOST_LOOKS do
        local peer = random_peer(upstream)
        if not (tried and tried[peer]) and not failing(peer, now) then
            return chosen(peer, now)
        end
        state.looks = state.looks + 1
    end
    return turns(upstream, state, now)
end

-- Of two that are drawn, the one with fewer requests under way for its weight; the later one of equals.
function methods.random_two(upstream, state, now)
    local tried = state.tried
    local first
    state.looks = state.looks or 0
    while upstream.count > 1 and state.looks <= MOST_LOOKS do
        local peer = random_peer(upstream)
        if peer ~= first and not (tried and tried[peer]) and not failing(peer, now) then
            if first then
                if peer.connections * first.weight > first.connections * peer.weight then
                    peer = first
                end
                return chosen(peer, now)
            end
            first = peer
        end
        state.looks = state.looks + 1
    end
    return turns(upstream, state, now)
end

-- Methods that know nothing of a request before its first endpoint has failed.
local WITHOUT_STATE = { round_robin = true, least_conn = true }

-- The points of nginx's `hash … consistent`, so that a key keeps its endpoint when an upstream changes its path.
local function ring_of(upstream)
    local points = {}
    for _, peer in ipairs(upstream.peers) do
        local base = peer.host .. "\0" .. peer.port
        local previous = 0
        for _ = 1, peer.weight * POINTS do
            local bytes = string.char(
                bit.band(previous, 255), bit.band(bit.rshift(previous, 8), 255),
                bit.band(bit.rshift(previous, 16), 255), bit.band(bit.rshift(previous, 24), 255)
            )
            previous = ngx.crc32_long(base .. bytes)
            points[#points + 1] = { previous, peer, #points }
        end
    end
    table.sort(points, function(one, other)
        if one[1] == other[1] then
            return one[3] < other[3]
        end
        return one[1] < other[1]
    end)
    local ring = {}
    for _, point in ipairs(points) do
        if #ring == 0 or ring[#ring][1] ~= point[1] then
            ring[#ring + 1] = point
        end
    end
    return ring
end

function methods.hash(upstream, state, now)
    local tried = state.tried
    state.looks = state.looks or 0
    if not state.key then
        state.key = ngx.var.reeve_key or ""
    end
    if state.key == "" then
        return turns(upstream, state, now)
    end
    local ring = upstream.ring
    if not ring then
        ring = ring_of(upstream)
        upstream.ring = ring
    end
    if not state.at then
        local hash = ngx.crc32_long(state.key)
        local low, high = 1, #ring + 1
        while low < high do
            local middle = math.floor((low + high) / 2)
            if hash < ring[middle][1] then
                high = middle
            elseif hash > ring[middle][1] then
                low = middle + 1
            else
                low, high = middle, middle
            end
        end
        state.at = low - 1
    end
    while state.looks <= MOST_LOOKS do
        local peer = ring[state.at % #ring + 1][2]
        if not (tried and tried[peer]) and not failing(peer, now) then
            if peer.effective < peer.weight then
                peer.effective = peer.effective + 1
            end
            return chosen(peer, now)
        end
        state.at = state.at + 1
        state.looks = state.looks + 1
    end
    return turns(upstream, state, now)
end

-- ------------------------------------------------------------------------------------------------- requests

local function failed(peer, now)
    peer.fails = peer.fails + 1
    peer.accessed = now
    peer.checked = now
    peer.effective = math.max(0, peer.effective - math.floor(peer.weight / MAX_FAILS))
end

local function succeeded(peer)
    if peer.accessed < peer.checked then
        peer.fails = 0
    end
end

-- By request: the endpoint that it is with, and what its method has to know when it is asked again. Not in `ngx.ctx`: that
-- costs more than the choice itself, and an internal redirect (X-Accel-Redirect, error_page) forgets it.
local peer_of, state_of = {}, {}
-- The state of a request that found no endpoint at all.
local EMPTY = {}

-- nginx takes the place of a request that is over for another one. So what is left of one whose end nobody told of, as of
-- a subrequest, is found by the next, and goes then.
local function this_request()
    return tonumber(cast(address, get_request()))
end

local function leave(request, peer)
    peer_of[request] = nil
    peer.connections = peer.connections - 1
end

-- "1" for an upstream without endpoints.
function reeve.empty(name)
    return get(name).count == 0 and "1" or ""
end

-- "1" for a request that found its upstream so. What the upstream has become since does not matter.
function reeve.was_empty()
    return state_of[this_request()] == EMPTY and "1" or ""
end

function reeve.balance(name, method)
    local upstream = get(name)
    local request = this_request()
    local last, state, outcome = peer_of[request], state_of[request], nil
    if last then
        leave(request, last)
        outcome = get_last_failure()
    end
    local now = ngx_time()
    if outcome then
        if not state then
            state = {}
            state_of[request] = state
        end
        state.tried = state.tried or {}
        state.tried[last] = true
        if outcome == "failed" then
            failed(last, now)
        else
            succeeded(last)
        end
    else
        if state then
            state, state_of[request] = nil, nil
        end
        if upstream.count == 1 then
            -- As nginx does it: a single endpoint never counts as failing.
            local peer = upstream.peers[1]
            return set_current_peer(peer.host, peer.port)
        end
        if upstream.count == 0 then
            state_of[request] = EMPTY
            return ngx.exit(-3)
        end
        set_more_tries(upstream.count - 1)
        if not WITHOUT_STATE[method] then
            state = {}
            state_of[request] = state
        end
    end
    -- It may have lost its endpoints while this request was with one.
    local peer = upstream.count > 0 and methods[method](upstream, state, now)
    if not peer then
        -- nginx's "no live upstreams".
        return ngx.exit(-3)
    end
    peer_of[request] = peer
    peer.connections = peer.connections + 1
    set_current_peer(peer.host, peer.port)
end

-- At the end of a request: what its last endpoint made of it.
function reeve.done()
    local request = this_request()
    if state_of[request] then
        state_of[request] = nil
    end
    local peer = peer_of[request]
    if not peer then
        return
    end
    leave(request, peer)
    local code = ngx.status
    if code ~= 502 and code ~= 504 and peer.fails == 0 then
        return
    end
    -- Without a header nginx answered in the endpoint's place. The last word counts, whatever an error_page made of it.
    local status, time = ngx.var.upstream_status or "", ngx.var.upstream_header_time or "-"
    if time:sub(-1) == "-" and (status:sub(-3) == "502" or status:sub(-3) == "504") then
        return failed(peer, ngx_time())
    end
    succeeded(peer)
end

-- ------------------------------------------------------------------------------------------------- reeve's requests

function reeve.probe()
    ngx.header.content_type = "text/plain"
    ngx.say(generation, " ", in_force(), " ", ngx.worker.pid())
end

-- Who comes here has the secret.
function reeve.serve()
    ngx.header.content_type = "text/plain"
    if ngx.req.get_method() == "POST" then
        ngx.req.read_body()
        local text = ngx.req.get_body_data()
        local path = not text and ngx.req.get_body_file()
        if path then
            local handle = io.open(path, "r")
            text = handle and handle:read("*a")
            if handle then
                handle:close()
            end
        end
        local hash = text and hash_of(text)
        if not hash then
            ngx.status = 400
            return ngx.say("not a whole set of endpoints")
        end
        if in_force() ~= hash then
            local stored, reason = put(text, hash)
            if not stored then
                ngx.status = 507
                return ngx.say("the endpoints do not fit into the shared memory: ", reason)
            end
        end
        return reeve.probe()
    end
    local current = dict:get("current")
    ngx.print(generation, "\n", current and dict:get(current:sub(1, 1)) or "")
end

load_file()
return reeve
