# api: what it says to bad paths, methods, bodies and clients, and that nothing they send stops it.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use IO::Socket::INET;
use JSON::PP;
use Test::More;
use Time::HiRes ();

my ($port, $port2) = (free_port(), free_port());
my $gateway = gateway(http => <<"CONF");
client_max_body_size 5m;
client_body_buffer_size 8k;
client_body_timeout 1s;
lingering_timeout 200ms;
server {
    listen 127.0.0.1:$port;
    listen 127.0.0.1:$port2 http2;
    location /api { api write=on; }
    location /read { api; }
    location /filed { api write=on; client_body_in_file_only on; client_body_in_single_buffer on; }
    location /none { api write=on; client_body_buffer_size 1; }
    location /deep/down/ { api write=on; }
    location = /exact { api; }
    location ~ ^/pattern/ { api; }
    location /only { api write=on; limit_except GET { deny all; } }
    location /if { if (\$arg_x) { set \$a 1; } api write=on; }
    location /renamed { rewrite ^/renamed(.*) /api\$1 last; }
    location /within { rewrite ^/within(.*) /within/9\$1 break; api; }
    location /named { try_files /nothing \@api; }
    location \@api { api; }
    location /ssi { ssi on; default_type text/html; alias html/; }
    location /denied { deny all; }
    error_page 403 = /api/9/processes;
    error_page 404 /never;
    location /never { return 200 never; }
}
CONF
Sluice::Run::spew("$gateway->{dir}/html/page.html", '[<!--# include virtual="/api/9/processes" -->][<!--# include virtual="/api/9/nothing" -->]');

my %JSON = ('Content-Type' => 'application/json');

# is_error($answer, $status, $code, $what): the error document, complete.
sub is_error {
    my ($answer, $status, $code, $what) = @_;
    my $document = eval { decode_json(body_of($answer)) } || {};
    my $error    = ref $document eq 'HASH' && $document->{error} || {};
    is_deeply [ status_of($answer), $error->{status}, $error->{code} ], [ $status, $status, $code ], $what or diag $answer;
    return $document;
}

sub served { status_of(get($port, '/api/9/processes')) == 200 }

# --- paths
my $document = is_error(get($port, '/api/9/nothing'), 404, 'PathNotFound', 'a path that is none');
like $document->{request_id}, qr/^[0-9a-f]{32}$/, 'its number is that of the request';
is $document->{href}, 'https://nginx.org/en/docs/http/ngx_http_api_module.html', 'and where to read on';
is $document->{error}{text}, 'path not found', 'in words';

is_error(get($port, $_), 404, 'UnknownVersion', $_) for '/api/0/nginx', '/api/10', '/api/09/nginx', '/api/x/nginx', '/api/-1';
is_error(get($port, $_), 404, 'PathNotFound', substr $_, 0, 40)
    for '/api/9/nginx/more', '/api/9/NGINX', '/api/9/stream', '/api/9/stream/upstreams', '/apifoo/9/nginx', '/api/9/nginx%2F', '/api/9/%ff%fe', '/api/9/%E2%98%83',
    '/api/9/' . 'a' x 7000, '/api/9' . '/a' x 3000, '/api%2F9/nginx', '/api/9/%25%32%65', '/api/9/nginx%20', '/api/9/*', '/deep/down/9/deep';
is status_of(get($port, $_)), 200, $_
    for '/api', '/api/', '/api?x', '/api/9', '/api/9/', '//api//9///processes//', '/api/8/../9/processes', '/api/9/%70rocesses', '/api/4/processes', '/api/9/./processes', '/api/9/%2e%2e%2f',
    '/read/9/processes', '/deep/down/9/processes', '/deep/down/', '/exact', '/pattern/a/9/processes', '/if/9/processes', '/if/9/processes?x=1', '/renamed/9/processes',
    '/within/processes', '/named/9/processes', '/api/9/processes?%00', '/api/9/processes?fields=%ff', '/api/9/processes?&&==&fields', '/api/9/processes?fields=' . 'a,' x 3000;
is body_of(get($port, '/api')), '[1,2,3,4,5,6,7,8,9]', 'the versions';
is status_of(get($port, '/api/9/%00')), 400, 'nginx itself refuses a zero byte';
is status_of(get($port, '/api/9/%zz')), 400, 'and a percent sign that begins no code';
is status_of(get($port, '/api/../../9')), 400, 'and dots that lead out';
is status_of(get($port, '/api/9/' . 'a' x 9000)), 414, 'and a line that is too long';

# --- methods
for my $method (qw(POST PATCH DELETE PUT OPTIONS)) {
    for my $path ('/read/9/processes', '/read/9/nothing', '/read/77', '/read/9/http/upstreams/DASHBOARD_INIT/servers/__TEST_FOR_WRITE__/') {
        my $answer = get($port, $path, method => $method);
        is_error($answer, 405, 'MethodDisabled', "read-only: $method $path, before anything is looked up");
        is header_of($answer, 'Allow'), 'GET, HEAD', 'and what may be done';
    }
}
is_error(get($port, '/read/9/nothing', method => 'POST', body => 'x' x 100_000), 405, 'MethodDisabled', 'read-only: nor is its body looked at');
is_error(get($port, '/api/9/nothing', method => $_), 404, 'PathNotFound', "$_ to nothing") for qw(POST PATCH DELETE);
is_error(get($port, '/api/9/nginx',   method => $_), 405, 'MethodDisabled', "$_ to what can only be read") for qw(POST PATCH DELETE PUT OPTIONS PROPFIND);
is status_of(get($port, '/api/9/processes',  method => 'DELETE')), 204, 'a reset';
is status_of(get($port, '/if/9/processes?x', method => 'DELETE')), 204, 'a reset where "if" holds';
is status_of(get($port, '/only/9/processes')), 200, 'limit_except lets one read';
is status_of(get($port, '/only/9/processes', method => 'DELETE')), 200, 'and not write: that is error_page, read by GET';
is body_of(get($port, '/denied')), '{"respawned":0}', 'error_page may lead here';
like get($port, '/api/9/nothing'), qr/^HTTP.1.1 404.*PathNotFound/s, 'but takes no error of ours';

# --- HEAD, HTTP/1.0 and 0.9, pipelining, HTTP/2, subrequests
my $head = get($port, '/api/9/processes', method => 'HEAD');
is_deeply [ status_of($head), body_of($head), header_of($head, 'Content-Length') ], [ 200, '', length '{"respawned":0}' ], 'HEAD';
is_deeply [ map { header_of($head, $_) } 'Content-Type', 'Cache-Control', 'X-Content-Type-Options', 'Access-Control-Allow-Origin' ],
    [ 'application/json', 'no-store', 'nosniff', undef ], 'headers';
is header_of(get($port, '/api/9/nothing'), 'Cache-Control'), 'no-store', 'errors are not kept either';

# raw($text, $text …): what comes back for these, sent with a pause between.
sub raw {
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 10) or return '';
    local $SIG{PIPE} = 'IGNORE';
    my $first = 1;
    for my $text (@_) {
        Time::HiRes::sleep(0.1) unless $first--;
        syswrite $socket, $text;
    }
    my $answer = '';
    eval {
        local $SIG{ALRM} = sub { die "timeout\n" };
        alarm 10;
        1 while sysread $socket, $answer, 65536, length $answer;
        alarm 0;
    };
    alarm 0;
    return $answer;
}
like raw("GET /api/9/processes HTTP/1.0\r\n\r\n"), qr/^HTTP.1.1 200 .*"respawned":0\}$/s, 'HTTP/1.0';
is raw("GET /api/9/processes\r\n"), '{"respawned":0}', 'HTTP/0.9';
my $post = "POST /api/9/nginx HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
my $last = "GET /api/9/processes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
like raw("${post}Content-Length: 2\r\n\r\n{}$last"), qr/ 405 .* 200 .*respawned/s, 'a body is read, and the next request after it';
like raw("POST /read/9/nginx HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}$last"), qr/ 405 .* 200 .*respawned/s, 'or thrown away';
like raw("GET /api/9/processes HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello$last"), qr/ 200 .*respawned.* 200 .*respawned/s, 'so is one with GET';
like raw("${post}Transfer-Encoding: chunked\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n$last"), qr/ 405 .* 200 .*respawned/s, 'a body in chunks';
unlike raw("POST /read/9/nginx HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"), qr/ 100 /, 'nobody is asked for a body that is not wanted';
like raw("${post}Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", '{}'), qr/ 100 .* 405 /s, 'one that is wanted is asked for';

sub h2 { my @args = @_; return scalar `curl -sS -m 10 --http2-prior-knowledge -w '[%{http_code} %{http_version}]' @args 2>&1` }
is h2("http://127.0.0.1:$port2/api/9/processes"), '{"respawned":0}[200 2]', 'HTTP/2';
like h2("-X POST -H 'content-type: application/json' -d '{' http://127.0.0.1:$port2/api/9/nginx"), qr/JsonError.*\[415 2\]/, 'a body over HTTP/2';
like scalar `printf '[1,2' >$gateway->{dir}/body; nghttp -t 10 --no-content-length -d $gateway->{dir}/body -H ':method: POST' -H 'content-type: application/json' http://127.0.0.1:$port2/api/9/nginx`, qr/JsonError/,
    'a body of a length that nobody told';
# curl takes the end of a stream whose body nobody read for an error now and then, whoever answers.
like scalar `nghttp -t 10 -d $gateway->{dir}/nginx.conf -H ':method: POST' http://127.0.0.1:$port2/read/9/nginx`, qr/MethodDisabled/, 'one that is not wanted';
like raw("GET /ssi/page.html HTTP/1.0\r\n\r\n"), qr/\r\n\r\n\[\{"respawned":0\}\]\[\{"error":.*PathNotFound.*\}\]$/, 'subrequests';

# --- bodies
is_error(get($port, '/api/9/nginx', method => 'POST', body => '{}', 'Content-Type' => $_), 415, 'UnsupportedMediaType', "a body of type \"$_\"")
    for 'text/plain', 'application/x-www-form-urlencoded', 'application/jsonx', 'multipart/form-data; boundary=x', '', 'text/json';
is_error(get($port, '/api/9/nginx', method => 'POST', body => '{}'), 415, 'UnsupportedMediaType', 'a body of no type');
is_error(get($port, '/api/9/nginx', method => 'POST', 'Content-Type' => 'text/plain'), 415, 'UnsupportedMediaType', 'no body of another type');
is_error(get($port, '/api/9/nginx', method => 'POST', body => '{}', 'Content-Type' => 'Application/JSON; charset=utf-8'), 405, 'MethodDisabled', 'types are told by their names');
is_error(get($port, '/api/9/nginx', method => 'POST', body => $_, %JSON), 415, 'JsonError', 'not JSON: ' . substr $_, 0, 20)
    for '{', '{}x', "\xff\xfe", '{"a":1,}', "{'a':1}", "\0", 'nan', '[' x 4000, '{"a":' x 1500, '1e9999', '"\ud800"';
is_error(get($port, '/filed/9/nginx', method => 'POST', body => '{', %JSON), 415, 'JsonError', 'a body that was to go into a file');
is_error(get($port, '/none/9/nginx', method => 'POST', body => '{}', %JSON), 413, 'RequestEntityTooLarge', 'no room for any');
is_error(get($port, '/api/9/nginx', method => 'POST', body => '"' . 'x' x 8190 . '"', %JSON), 405, 'MethodDisabled', 'a body that just fits');
is_error(get($port, '/api/9/nginx', method => 'POST', body => '"' . 'x' x 8191 . '"', %JSON), 413, 'RequestEntityTooLarge', 'one that does not');
is_error(get($port, '/api/9/nginx', method => 'POST', body => 'x' x 4_000_000, %JSON), 413, 'RequestEntityTooLarge', '4 MB');
is status_of(get($port, '/api/9/nginx', method => 'POST', body => 'x' x 10_000_000, %JSON)), 413, '10 MB: refused by client_max_body_size';
my $chunk = sprintf "%x\r\n%s\r\n", 20_000, 'x' x 20_000;
is_error(raw("${post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", $chunk, "0\r\n\r\n"), 413, 'RequestEntityTooLarge', 'too much in chunks');
like raw("${post}Connection: close\r\nContent-Length: 6\r\n\r\n", '[1,', '2,3]'), qr/ 415 .*JsonError/s, 'a body that comes in parts is cut where it was said to end';
is_error(raw("${post}Connection: close\r\nContent-Length: 7\r\n\r\n", '[1,', '2,3]'), 405, 'MethodDisabled', 'a body that comes in parts');

# A client that stalls holds nobody up, and is left at client_body_timeout.
my $slow = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die;
syswrite $slow, "${post}Content-Length: 100\r\n\r\n{";
my $begin = Time::HiRes::time();
ok served(), 'others are served meanwhile';
sysread $slow, my $rest, 65536;
cmp_ok Time::HiRes::time() - $begin, '<', 5, 'a body that does not come is not waited for';
for (1 .. 20) {
    my $gone = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die;
    syswrite $gone, "${post}Content-Length: 100\r\n\r\n{";
    setsockopt $gone, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    close $gone;
}
ok served(), 'clients that leave within their body';

# --- pages of others
is_error(get($port, '/api/9/processes', method => 'DELETE', @$_), 403, 'ForeignOrigin', "@$_")
    for [ Origin => 'http://evil.example' ], [ Origin => 'null' ], [ 'Sec-Fetch-Site' => 'cross-site' ], [ 'Sec-Fetch-Site' => 'same-site', Origin => 'http://localhost' ];
is status_of(get($port, '/api/9/processes', method => 'DELETE', @$_)), 204, "@$_"
    for [ Origin => 'http://localhost' ], [ Origin => 'https://LOCALHOST' ], [ 'Sec-Fetch-Site' => 'same-origin', Origin => 'https://front' ], [ 'Sec-Fetch-Site' => 'none' ];
is status_of(get($port, '/api/9/processes', Origin => 'http://evil.example')), 200, 'reading is what CORS is for';

# --- garbage
srand 7;
for my $round (1 .. 300) {
    my @bits = ('/', '//', '9', 'http', 'upstreams', '%2f', '%2e', '..', '.', '%', '%0', '?', '&', '=', 'fields=', "\xff", '%ff', '%0d%0a', ';', '#', 'nginx', 'a' x 300, '+', '"', '\\', '{');
    my $path = join '', map { $bits[ rand @bits ] } 1 .. 1 + rand 12;
    my $status = status_of(get($port, "/api/$path", method => (qw(GET POST DELETE PATCH HEAD))[ rand 5 ]));
    next if $status >= 200 && $status < 500;
    fail "round $round: /api/$path: $status";
}
ok served(), 'it serves after garbage';

# --- the directive
sub said { my ($status, $text) = nginx_t(http => "server { listen 127.0.0.1:$port; $_[0] }"); return $text }
like said('location / { api on; }'),             qr/"api" directive has unknown parameter "on" in/,                       'a parameter that is none';
like said('location / { api write=maybe; }'),    qr/"api" directive has invalid value "maybe" of "write", "on" or "off" expected in/, 'a value that is none';
like said('location / { api; api; }'),           qr/"api" directive is duplicate in/,                                      'twice';
like said('location / { api write=on write=on; }'), qr/invalid number of arguments in "api" directive in/,                 'twice the parameter';
like said('api;'),                               qr/"api" directive is not allowed here in/,                               'in a server';
like said('location / { api; stub_status; }'),   qr/"api" stands beside another handler of the location in \S+nginx\.conf:9/,   'another handler after it';
like said('location / { return 200; api; }'),    qr/successful/,                                                           'what comes before a handler';
like said('location / { stub_status; api; }'),   qr/"api" directive stands beside another handler of the location in/,     'another handler before it';

my $warning = qr/\[warn\] \d+#\d+: anybody may write to "api" with write=on, as no "deny", "auth_basic" or "auth_request" stands before it, in \S+nginx\.conf:\d+|^nginx: \[warn\] anybody may write to "api"/m;
like said($_), $warning, "a warning: $_"
    for 'location / { api write=on; }', 'location / { allow 127.0.0.1; api write=on; }', 'auth_basic off; location / { api write=on; }', 'location / { deny all; location /b { allow all; api write=on; } }',
    'location / { api write=on; limit_except GET POST { deny all; } }', 'location / { api write=on; location /c { deny all; } }';
unlike said($_), $warning, "no warning: $_"
    for 'location / { api; }', 'location / { api write=off; }', 'location / { api write=on; allow 127.0.0.1; deny all; }', 'allow ::1; deny all; location / { api write=on; }',
    'location / { api write=on; auth_basic x; auth_basic_user_file x; }', 'location / { api write=on; limit_except GET { deny all; } }', 'location / { internal; api write=on; }';
like said("\nlocation / {\napi write=on; }"), qr/it, in \S+nginx\.conf:11$/m, 'it says where';

my $log = $gateway->log;
unlike $log, qr/panic|internal error|\[(?:alert|emerg|crit)\]/, 'nothing bad in the log';
ok $gateway->quit, 'and nothing is left waiting';

done_testing;
