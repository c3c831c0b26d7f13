# dashboard: the page as it is served, and as a real Chromium shows it over the real API.
use strict;
use warnings;
use utf8;
use lib 't/lib';
use Digest::SHA 'sha256_base64';
use Sluice::Browser;
use Sluice::Run;
use Test::More;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output todo_output);

my ($port, @back) = (free_port(), map { free_port() } 1 .. 3);
my $evil = '<img src=x onerror=window.pwned=1><script>';

# Three backends whose health documents the test changes.
my $backends = backend(port => $back[0], http => <<"CONF");
server {
    listen 127.0.0.1:$back[0];
    listen 127.0.0.1:$back[1];
    listen 127.0.0.1:$back[2];
    location = /health { default_type application/json; root html; try_files /\$server_port.json =503; }
    location / { return 200 'ok'; }
}
CONF
sub health { Sluice::Run::spew("$backends->{dir}/html/$_[0].json", $_[1]) }
my $well = '{"status":"ok"}';
health($_, $well) for @back;

my $gateway = gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF");
match ok { status 200; json \$.status = "ok"; }
upstream app {
    zone app 128k;
    server 127.0.0.1:$back[0];
    server 127.0.0.1:$back[1];
    circuit_breaker failures=5 window=10s open=10s;
}
upstream other { zone other 128k; server 127.0.0.1:$back[2]; }
ban_zone \$binary_remote_addr zone=away:1m;
rate_limit_zone \$arg_who zone=per_who:1m rate=1r/m burst=3;
server {
    listen 127.0.0.1:$port;
    location / { ban zone=away status=401 count=9 window=60s duration=60s; rate_limit zone=per_who nodelay; proxy_pass http://app; health_check uri=/health match=ok interval=200ms passes=1 fails=1; }
    location /other { proxy_pass http://other; health_check uri=/health match=ok interval=200ms passes=1 fails=1; }
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /read { api; }
    location = /dashboard { dashboard; }
    location = /readonly { dashboard api=/read; limit_except GET { allow all; } if (\$arg_x) { set \$y 1; } }
    location = /nothing { dashboard api=/none; }
}
CONF

# ---- the page itself
my $answer = get($port, '/dashboard');
is status_of($answer), 200, 'the page is there';
is header_of($answer, 'Content-Type'), 'text/html; charset=utf-8', 'its type';
is header_of($answer, 'X-Content-Type-Options'), 'nosniff', 'nosniff';
is header_of($answer, 'Referrer-Policy'), 'no-referrer', 'no referrer';
is header_of($answer, 'Cache-Control'), 'no-cache', 'asked for again each time';
my $policy = header_of($answer, 'Content-Security-Policy');
for my $tag (qw(style script)) {
    my ($text) = body_of($answer) =~ m{<$tag>(.*?)</$tag>}s;
    like $policy, qr{\b$tag-src 'sha256-\Q@{[ sha256_base64($text) ]}=\E'(;|$)}, "the policy has the hash of the $tag";
}
like $policy, qr{default-src 'none'.*connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'}, 'the policy is strict';
unlike body_of($answer), qr{(?:src|href)="https?:|url\(|\@import|innerHTML}, 'nothing comes from elsewhere';
cmp_ok length(body_of($answer)), '<', 80 * 1024, 'it is small';
my $etag = header_of($answer, 'ETag');
is status_of(get($port, '/dashboard', 'If-None-Match' => $etag)), 304, 'not modified';
is status_of(get($port, '/dashboard', 'If-None-Match' => '"x"')), 200, 'another tag';
isnt header_of(get($port, '/readonly'), 'ETag'), $etag, 'over another API it is another page';
is body_of(get($port, '/dashboard', method => 'HEAD')), '', 'HEAD';
my $posted = get($port, '/dashboard', method => 'POST', body => 'x');
is status_of($posted) . ' ' . header_of($posted, 'Allow'), '405 GET, HEAD', 'POST';
is status_of(get($port, '/readonly', method => 'POST', body => 'x')), 405, 'POST inside limit_except';
is status_of(get($port, '/readonly?x=1')), 200, 'inside an if';

for my $row (
    [ 'dashboard api=api;'           => qr/invalid value "api" of "api", a path such as \/api expected/ ],
    [ 'dashboard api=//evil;'        => qr/invalid value/ ],
    [ 'dashboard api=/a/../b;'       => qr/invalid value/ ],
    [ 'dashboard "api=/\"><b>";'     => qr/invalid value/ ],
    [ 'dashboard api=/api?x;'        => qr/invalid value/ ],
    [ 'dashboard api=;'              => qr/invalid value "" of "api"/ ],
    [ 'dashboard write=on;'          => qr/unknown parameter "write=on"/ ],
    [ 'dashboard api=/a api=/b;'     => qr/invalid number of arguments/ ],
    [ 'dashboard; dashboard api=/a;' => qr/duplicate/ ],
    [ 'dashboard; api;'              => qr/another handler/ ],
    [ 'api; dashboard;'              => qr/another handler/ ],
) {
    my ($line, $why) = @$row;
    my ($status, $said) = nginx_t(http => "server { location / { $line } }");
    ok $status && $said =~ $why, "refused: $line" or diag $said;
}
ok !(nginx_t(http => "server { location / { dashboard api=$_; } }"))[0], "another place for the API: $_" for '/admin/api', '/admin/api/';
ok +(nginx_t(http => 'server { dashboard; }'))[0], 'not in a server';

# ---- in a browser
my $browser = Sluice::Browser->new;
my $up      = sub { $browser->until_js(10, 'return document.querySelectorAll("#u-app .row [data-level=\"0\"]").length === 2') };
my $row     = q{const row = [...document.querySelectorAll('.row:not(.names)')].find((row) => row.textContent.includes(arguments[0])); return row ? [...row.querySelectorAll('[role=cell]')].map((cell) => cell.textContent.trim()).join(' ') : '';};
sub row { $browser->js($row, "127.0.0.1:$_[0]") }

$browser->open("http://127.0.0.1:$port/dashboard");
ok $up->(), 'both servers are shown, and are up' or diag $browser->text('body');
like row($back[0]), qr/^up 127\.0\.0\.1:$back[0] 50 %/, 'a server in words';
like $browser->text('#tiles'), qr/All well/, 'all is well';
like $browser->text('#no-problems'), qr/Nothing/, 'nothing is wrong';
like $browser->js('return document.title'), qr/^Sluice 127\.0\.0\.1:$port$/, 'the title says so';
$browser->js('window.mark = document.querySelector(".row:not(.names)")');

health($back[1], '{"status":"down"}');
ok wait_until(10, sub { row($back[1]) =~ /^unhealthy/ }), 'a server that fails its checks is shown' or diag row($back[1]);
like $browser->text('#problem-list'), qr/127\.0\.0\.1:$back[1] in app\s+takes no traffic/, 'what is wrong comes first, in words';
like $browser->js('return document.title'), qr/^△ 1 wrong/, 'the title says so';
ok $browser->js('return window.mark.isConnected'), 'without a reload, and rows stay the same elements';
health($back[1], $well);
ok $up->(), 'and back again';
ok $browser->until_js(5, 'return /Nothing/.test(document.querySelector("#no-problems").innerText)'), 'and nothing is wrong any more';

# ---- hostile text
health($back[2], qq({"status":"$evil"}));
ok wait_until(10, sub { row($back[2]) =~ /^unhealthy/ }), 'a backend with a hostile document is unhealthy';
like $browser->text('#problem-list'), qr/^other\s+no server takes traffic/, 'a group that takes no traffic comes first';
like $browser->js('return document.title'), qr/^▲ /, 'and is worse';
like $browser->text('body'), qr/\Q$evil\E/, 'what it said is shown as text' or diag $gateway->log;
is $browser->js('return [window.pwned || 0, document.querySelectorAll("img, script:not(:only-of-type)").length].join()'), '0,0', 'and is inert';

# ---- limits and their charts
get($port, '/?who=me') for 1 .. 9;
ok wait_until(12, sub { $browser->text('#limit-list') =~ /per_who.*allowed\s+[\d.]+\/s\s+refused\s+0\.[1-9]/s }), 'what a limit lets through and refuses' or diag $browser->text('#limit-list');
ok $browser->until_js(15, 'return document.querySelector(".chart .refused").getAttribute("d").length > 10'), 'drawn, too, as soon as there are two points';

# ---- by keyboard alone
my $focused = 'const e = document.activeElement; return e.id || e.getAttribute("aria-label") || e.tagName';
$browser->js('document.activeElement.blur(); scrollTo(0, 0)');
$browser->keys('Tab');
is $browser->js('return document.activeElement.className'), 'skip', 'first comes the link to what is wrong';
$browser->keys('/');
is $browser->js($focused), 'filter', '/ goes to the filter';
$browser->type("$back[0]");
ok $browser->until_js(3, 'return document.querySelectorAll(".row:not(.names)").length === 1'), 'which hides what does not match';
my $reached = 0;
for (1 .. 30) {
    $browser->keys('Tab');
    last if $reached = $browser->js($focused) eq "Actions for 127.0.0.1:$back[0]";
}
ok $reached, 'Tab reaches the actions of the server';
$browser->keys('Enter');
ok $browser->js('return document.querySelector("#dialog").open'), 'Enter opens the dialog';
like $browser->js('return document.querySelector("#curl").value'), qr{^curl -X PATCH -H 'Content-Type: application/json' -d '\{"drain":true\}' 'http://127\.0\.0\.1:$port/api/9/http/upstreams/app/servers/\d+'$}, 'the same as a line for the shell';
$browser->keys('Escape');
ok !$browser->js('return document.querySelector("#dialog").open'), 'Escape closes it';
like $browser->js($focused), qr/^Actions for/, 'and the focus is back';
$browser->keys('Enter');
$browser->keys('Enter');
ok $browser->js('return document.querySelector("#dialog").open'), 'a second Enter does nothing yet';
for (1 .. 5) {
    $browser->keys('Tab');
    last if $browser->js($focused) eq 'confirm';
}
$browser->js('const f = document.querySelector("#fields [name=reason]"); f.value = "deploy 7 (a)"; f.dispatchEvent(new Event("input"))');
like $browser->js('return document.querySelector("#curl").value'), qr{/servers/\d+\?reason=deploy%207%20%28a%29'$}, 'with a reason';
$browser->keys('Enter');
ok wait_until(10, sub { row($back[0]) =~ /^draining/ }), 'confirmed, the server drains' or diag $browser->text('dialog'), row($back[0]);
like get($port, '/api/9/http/upstreams/app/servers'), qr/"drain":\s*true/, 'so says the API';
ok wait_until(10, sub { $browser->text('#event-list') =~ /deploy 7 \(a\)/ }), 'and the event log why' or diag $browser->text('#event-list');
my $line = $browser->js('document.querySelector("#u-app .row .dots[aria-label^=Actions]").click(); return document.querySelector("#curl").value');
like $line, qr/"drain":false/, 'what brings it back';
like `$line`, qr/"server"/, 'the line does what it says';
$browser->keys('Escape');
ok wait_until(10, sub { row($back[0]) =~ /^up/ }), 'and it is up again' or diag row($back[0]);
$browser->js('const f = document.querySelector("#filter"); f.value = ""; f.dispatchEvent(new Event("input"))');

# ---- a breaker by hand, with words that a shell, JSON or HTML might take for their own
my $why = q{it's "<i>deploy</i>" \\ $(id) ü};
$browser->click('#u-app .head .dots');
$browser->js('const f = document.querySelector("#fields [name=reason]"); f.value = arguments[0]; f.dispatchEvent(new Event("input"))', $why);
$line = $browser->js('return document.querySelector("#curl").value');
unlike $line, qr/[^ -~]/, 'the line is plain ASCII';
like `$line 2>&1`, qr/"forced_open"/, 'and does what it says' or diag $line;
is JSON::PP::decode_json(body_of(get($port, '/api/9/http/circuit_breakers/app')))->{override}{reason}, $why, 'to the letter';
$browser->keys('Escape');
ok $browser->until_js(10, 'return document.querySelector("#breaker-list").innerText.includes(arguments[0])', "127.0.0.1: $why"), 'the page tells who holds the breaker, and why' or diag $browser->text('#breaker-list');
like $browser->text('#problem-list'), qr/^app\s+circuit breaker held open/, 'and that it is open';
$browser->click('#u-app .head .dots');
$browser->click('#choices label:nth-of-type(4)');
$browser->click('#confirm');
ok $browser->until_js(10, 'return /^Nothing|other/.test(document.querySelector("#problems").innerText) && !/held/.test(document.querySelector("#breaker-list").innerText)'), 'until it is let go';
like $browser->text('#toast'), qr/^Done: let go/, 'done, it says';
like $browser->text('#event-list'), qr/control\s+app.*\Q$why\E/s, 'and the event log has it all' or diag $browser->text('#event-list');

# ---- bans
my $fill = 'for (const [name, value] of Object.entries(arguments[0])) { const f = document.querySelector(`#fields [name=${name}]`); f.value = value; f.dispatchEvent(new Event("input")); }';
$browser->click('#ban-list .head button');
$browser->click('#confirm');
like $browser->text('#refused'), qr/a key is needed/, 'a ban needs a key';
$browser->js($fill, { key => 'nobody', reason => $evil });
$browser->click('#confirm');
ok $browser->until_js(5, 'return /^Refused: "key" must be an address/.test(document.querySelector("#refused").innerText)'), 'what the API refuses is told';
$browser->js($fill, { key => '203.0.113.9' });
$browser->click('#confirm');
ok $browser->until_js(10, 'return document.querySelector("#ban-list tbody").innerText.includes("203.0.113.9")'), 'a client is banned' or diag $browser->text('dialog');
like $browser->text('#ban-list tbody'), qr/\Q$evil\E.*in \d+ min/s, 'why, and until when';
$browser->click('#ban-list tbody .dots');
$browser->click('#confirm');
ok $browser->until_js(10, 'return /Nobody is banned/.test(document.querySelector("#ban-list").innerText)'), 'and let in again';
is $browser->js('return window.pwned || 0'), 0, 'nothing ran';

# ---- on a phone, in the dark, away
for my $width (360, 768, 1440) {
    $browser->size($width, 800);
    is $browser->js('return document.documentElement.scrollWidth'), $width, "no horizontal scroll at $width pixels";
}
my $ground = 'return getComputedStyle(document.body).backgroundColor';
my $light  = $browser->js($ground);
$browser->devtools('Emulation.setEmulatedMedia', features => [ { name => 'prefers-color-scheme', value => 'dark' } ]);
isnt $browser->js($ground), $light, 'dark where the system is';
$browser->click('#theme');
is $browser->js($ground), $light, 'light when told so';
is join("\n", map { $_->{message} } grep { $_->{message} !~ m{DASHBOARD_INIT|/bans/away - .*status of 400} } $browser->console), '', 'nothing to complain about so far';

my $asked = 'return performance.getEntriesByType("resource").length';
my $hide  = 'Object.defineProperty(document, "hidden", { value: arguments[0], configurable: true }); document.dispatchEvent(new Event("visibilitychange"))';
$browser->js($hide, JSON::PP::true());
is $browser->text('#pulse-text'), 'paused', 'a page that nobody sees pauses';
sleep 1; # what is under way
my $before = $browser->js($asked);
sleep 3;
is $browser->js($asked), $before, 'and asks for nothing';
$browser->js($hide, JSON::PP::false());
ok $browser->until_js(5, "$asked > arguments[0]", $before), 'until it is looked at';

$browser->devtools('Network.enable');
$browser->devtools('Network.emulateNetworkConditions', offline => JSON::PP::true(), latency => 0, downloadThroughput => -1, uploadThroughput => -1);
ok $browser->until_js(10, 'return /does not answer.* \d+ s old/.test(document.querySelector("#notice").innerText)'), 'an API that is away is told of';
ok length row($back[0]), 'what is known stays';
$browser->devtools('Network.emulateNetworkConditions', offline => JSON::PP::false(), latency => 0, downloadThroughput => -1, uploadThroughput => -1);
ok $browser->until_js(10, 'return document.querySelector("#notice").hidden'), 'and back';

# ---- what the policy keeps out, even from a script that is in
$browser->js(<<'JS');
window.kept = [];
addEventListener('securitypolicyviolation', (event) => kept.push(event.effectiveDirective));
for (const [tag, text] of [['script', 'window.inline = 1'], ['style', 'body { opacity: .1 }']]) {
    const element = document.createElement(tag);
    element.append(text);
    document.head.append(element);
}
try { document.body.innerHTML = '<b>' } catch {}
const image = new Image();
image.src = location.origin + '/other';
fetch('http://127.0.0.2:1/').catch(() => {});
JS
ok $browser->until_js(5, 'return ["style-src-elem", "require-trusted-types-for", "img-src", "connect-src"].every((name) => kept.includes(name))'), 'the policy keeps out scripts, styles, markup, images and other hosts' or diag explain $browser->js('return kept');
is $browser->js('return [window.inline, getComputedStyle(document.body).opacity].join()'), ',1', 'none of it worked';

# ---- read-only
$browser->open("http://127.0.0.1:$port/readonly");
ok $up->(), 'over an API that is read-only';
is $browser->js('return [...document.querySelectorAll("main button")].filter((b) => b.checkVisibility() && b.matches(".write")).length'), 0, 'there is nothing to press';
$browser->console;
$browser->open("http://127.0.0.1:$port/nothing");
ok $browser->until_js(10, 'return /no API at \/none/.test(document.querySelector("#notice").innerText)'), 'where there is no API, it says so' or diag $browser->text('body');
$browser->close;
unlike $gateway->log, qr/\[(?:alert|emerg|crit)\]/, 'nothing in the log';

done_testing();
