# /http/bans: lists, bans and lifts; what is wrong is refused and changes nothing.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my ($port, $closed) = (free_port(), free_port());
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF");
ban_zone \$binary_remote_addr zone=addr:1m;
ban_zone \$arg_k zone=text:1m;
server {
    listen 127.0.0.1:$port;
    location / { ban zone=text status=404 count=2 window=60s duration=60s max_duration=1h; }
    location /dry { ban zone=text status=404 count=1 window=60s duration=60s dry_run; }
    location /addr { ban zone=addr; empty_gif; }
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /metrics { metrics; }
}
server { listen 127.0.0.1:$closed; location /api { api; } }
CONF

sub api {
    my ($method, $path, $body) = @_;
    return get($port, "/api/9/http/bans$path", method => $method, defined $body ? ('Content-Type' => 'application/json', body => $body) : ());
}
sub metric { my ($name) = body_of(get($port, '/metrics')) =~ /^\Q$_[0]\E (\S+)/m; return $name // '' }

like body_of(api('GET', '')), qr/^\{"addr":\{"key":"\$binary_remote_addr","redis":null,"count":0,"capacity":\d+,"made":\{"status":0,.*"bans":\[\]\},"text":/, 'all zones';
is body_of(api('GET', '/text?fields=count,lifted')), '{"count":0,"lifted":0}', 'fields=';
is status_of(api('GET', '/nozone')), 404, 'an unknown zone';
like body_of(api('GET', '/nozone')), qr/"code":"BanZoneNotFound"/, 'by name';
like body_of(api('GET', '/text/nobody')), qr/"code":"BanNotFound"/, 'an unknown key';

# By hand.
my $answer = api('POST', '/addr', '{"key":"127.0.0.1","duration":3600,"reason":"<b>\u0000\n\u00fc"}');
is status_of($answer), 201, 'banned';
like body_of($answer), qr/^\{"key":"127\.0\.0\.1","id":"[0-9a-f]{32}","since":"2\d{3}-[^"]+Z","until":"2\d{3}-[^"]+Z","left":3600,"times":1,"cause":"manual","reason":"<b>  \xc3\xbc","source":"local","dry_run":false\}$/, 'as it is';
is status_of(get($port, '/addr')), 403, 'by the address that was typed';
like header_of(get($port, '/addr'), 'Retry-After'), qr/^(?:3600|359\d)$/, 'for as long';
api('POST', '/addr', '{"key":"::ffff:127.0.0.1","duration":"5m"}');
like header_of(get($port, '/addr'), 'Retry-After'), qr/^(?:300|29\d)$/, 'another word takes the place of the first';
like body_of(api('GET', '/addr/127.0.0.1')), qr/"left":(?:300|29\d)/, 'one ban';
is status_of(api('DELETE', '/addr/127.0.0.1')), 204, 'lifted';
is status_of(get($port, '/addr')), 200, 'and let in';
is status_of(api('DELETE', '/addr/127.0.0.1')), 404, 'once';

# By counting; found by the key, and by its hash.
get($port, '/x?k=a%2Fb') for 1 .. 3;
my ($id) = body_of(api('GET', '/text')) =~ /"key":"([0-9a-f]{32})","id":"\1"/;
ok $id, 'listed by its hash';
like body_of(api('GET', '/text/a%252Fb')), qr/"id":"$id".*"cause":"status"/, 'found by the key' or diag body_of(api('GET', '/text'));
like body_of(api('GET', "/text/$id")), qr/"times":1/, 'found by the hash';
is status_of(api('DELETE', "/text/$id")), 204, 'lifted by the hash';
is status_of(get($port, '/x?k=a%2Fb')), 404, 'and let in';

# Dry runs are seen, and refuse nobody.
get($port, '/dry?k=d') for 1 .. 2;
like body_of(api('GET', '/text')), qr/"dry_run":true/, 'a dry run is listed';

# The same numbers everywhere.
my $list = body_of(api('GET', '/text'));
my ($status, $lifted, $refused, $dry) = map { $list =~ /"$_":(\d+)/ } qw(status lifted refused refused_dry_run);
is metric('nginx_bans_made_total{zone="text",cause="status"}'), $status, "metrics: $status by status";
is metric('nginx_bans_lifted_total{zone="text"}'), $lifted, "$lifted lifted";
is metric('nginx_bans_refused_total{zone="text",dry_run="false"}'), $refused, "$refused refused";
is metric('nginx_bans_refused_total{zone="text",dry_run="true"}'), $dry, "$dry in a dry run";
is join(',', $status, $lifted, $refused, $dry), '1,1,1,1', 'which they are';
is metric('nginx_bans{zone="text"}'), 0, 'none is in force: a dry one is none';
like body_of(api('GET', '/text')), qr/"count":1,/, 'but listed';
like body_of(get($port, '/api/9/events')), qr/"kind":"ban","upstream":"text","peer":"#[0-9a-f]{8}","from":"free","to":"banned","text":"banned for 60 s: 2 responses, status=404 within 60 s"/, 'an event';
like body_of(get($port, '/api/9/events')), qr/"kind":"ban","upstream":"addr","peer":"127\.0\.0\.1","from":"banned","to":"free","text":"ban lifted by an operator"/, 'and its end';

# What is refused.
my @wrong = (
    [ 400, undef ], [ 415, '{' ], [ 400, '[]' ], [ 400, '{}' ], [ 400, '{"key":"a"}' ], [ 400, '{"duration":"1m"}' ], [ 400, '{"key":"","duration":"1m"}' ],
    [ 400, '{"key":1,"duration":"1m"}' ], map { [ 400, qq({"key":"a","duration":$_}) ] } '0', '-1', '"0"', '"x"', '"1x"', '"999999999d"', '1e99', '31622401', 'null', '1.5', '[]'
);
push @wrong, [ 400, '{"key":"a","duration":1,"more":1}' ], [ 400, '{"key":"a","duration":1,"reason":7}' ], [ 400, '{"key":"a","duration":1,"reason":"' . 'x' x 251 . '"}' ];
is status_of(api('POST', '/text', $_->[1])), $_->[0], 'refused: ' . substr $_->[1] // 'nothing', 0, 50 for @wrong;
is status_of(api('POST', '/addr', qq({"key":"$_","duration":1}))), 400, "no address: $_" for 'abcd', '1.2.3', '1.2.3.4/8', '0' x 64;
is status_of(api('POST', '/nozone', '{"key":"a","duration":1}')), 404, 'no such zone';
is status_of(api('DELETE', '/text')), 405, 'not all at once';
is status_of(api('POST', '/text/a', '{}')), 405, 'not by path';
is status_of(api('PATCH', '/text/a', '{}')), 405, 'nor changed';
is status_of(get($closed, '/api/9/http/bans/text', method => 'POST', body => '{"key":"a","duration":1}', 'Content-Type' => 'application/json')), 405, 'read-only';
is body_of(api('GET', '/text?fields=count')), '{"count":1}', 'nothing of that was done';

ok $gateway->quit, 'ends';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic/, 'nothing bad in its log';
done_testing;
