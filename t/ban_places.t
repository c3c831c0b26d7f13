# Bans among what else decides over a request: before all limits, the core's too; by the key that the client's own request had; and
# with the keys of a map.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use JSON::PP;
use Test::More;

my ($port, $redis) = (free_port(), redis());
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 500ms; }
geo \$friend { default 0; 192.0.2.0/24 1; }
map \$friend \$stranger { 0 \$binary_remote_addr; 1 ""; }
ban_zone \$arg_k zone=k:1m redis=main;
ban_zone "\$arg_k\$uri" zone=uri:1m;
ban_zone \$stranger zone=map:1m;
ban_zone \$remote_addr zone=dry:1m;
rate_limit_zone \$arg_k zone=limit:1m rate=2r/m redis=main;
limit_req_zone \$arg_k zone=core:1m rate=1r/m;
limit_conn_zone \$arg_k zone=conn:1m;
server {
    listen 127.0.0.1:$port;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-From;
    location /api { api write=on; allow 127.0.0.1; }
    location /limited { ban zone=k; rate_limit zone=limit nodelay; error_page 403 /page; empty_gif; }
    location = /page { rate_limit zone=limit nodelay; return 200 page; }
    location /core { ban zone=k; limit_req zone=core; limit_conn conn 1; empty_gif; }
    location /files/ { ban zone=uri status=404 count=2 window=60s duration=60s; try_files \$uri /none; }
    location = /none { return 404; }
    location /paged { ban zone=uri status=404 count=2 window=60s duration=60s; error_page 404 /gone; root /nonexistent; }
    location = /gone { internal; return 404 gone; }
    location /map { ban zone=map status=404 count=2 window=60s duration=60s; root /nonexistent; }
    location /dry { ban zone=dry status=404 count=2 window=60s duration=60s dry_run; root /nonexistent; }
    location /wet { ban zone=dry; empty_gif; }
    location /place { set_real_ip_from 127.0.0.1; real_ip_header X-Place; ban zone=map; empty_gif; }
}
CONF

sub codes { my ($path, $n, @with) = @_; return join ' ', map { status_of(get($port, $path, @with)) } 1 .. $n }
sub api {
    my ($method, $path, $body) = @_;
    my $answer = get($port, "/api/9/http/bans/$path", method => $method, $body ? ('Content-Type' => 'application/json', body => $body) : ());
    return (status_of($answer), length body_of($answer) ? decode_json(body_of($answer)) : undef);
}
sub by_hand { my ($zone, $key) = @_; my ($status) = api('POST', $zone, qq({"key": "$key", "duration": "1m"})); return $status }
sub scripts { return ask($redis->{port}, 'INFO', 'commandstats') =~ /cmdstat_evalsha:calls=(\d+)/ ? $1 : 0 }

# A page of its own costs the client nothing of his limit, and Redis nothing.
is by_hand('k', 'page'), 201, 'banned';
my $before = scripts();
my @answers = map { get($port, '/limited?k=page') } 1 .. 40;
is scalar(grep { status_of($_) == 403 && body_of($_) eq 'page' } @answers), 40, 'an error_page is served each time';
cmp_ok scripts() - $before, '<', 20, 'no call of Redis for it';
is((api('DELETE', 'k/page'))[0], 204, 'lifted');
is codes('/limited?k=page', 1), '200', 'and nothing of the limit is used';

# Before the core's limits.
is by_hand('k', 'core'), 201, 'banned';
is codes('/core?k=core', 3), '403 403 403', 'refused as banned';
is((api('DELETE', 'k/core'))[0], 204, 'lifted');
is codes('/core?k=core', 2), '200 503', 'limit_req has counted none of them';

# The key is what the client asked for.
is codes('/files/a?k=1', 3), '404 404 403', 'try_files leads elsewhere: the first name counts';
is codes('/files/b?k=1', 1), '404', 'another one does not';
is codes('/paged?k=2', 3), '404 404 403', 'error_page loses the arguments';
is codes('/paged?k=3', 1), '404', 'they still count';

# Addresses by way of a map: as usual where some are not to be counted.
is codes('/map', 3, 'X-From' => '192.0.2.7'), '404 404 404', 'a friend is never banned';
is codes('/map', 3, 'X-From' => '198.51.100.7'), '404 404 403', 'a stranger is';
is codes('/map', 3, 'X-From' => '2001:db8::7'), '404 404 403', 'by an address of 16 bytes too';
is_deeply [ sort map { $_->{key} } @{ (api('GET', 'map'))[1]{bans} } ], [ '198.51.100.7', '2001:db8::7' ], 'the API shows their addresses';
is((api('DELETE', 'map/2001:DB8:0::7'))[0], 204, 'and knows them, however they are written');
is codes('/map', 1, 'X-From' => '2001:db8::7'), '404', 'lifted';
is by_hand('map', '198.51.100.8'), 201, 'banned by hand';
is codes('/map', 1, 'X-From' => '198.51.100.8'), '403', 'is banned';
is codes('/place', 1, 'X-Place' => '198.51.100.8'), '403', 'by the address that the location takes for true, too';

# What a dry run has banned has the same name as a ban that holds, and gives way to it.
is codes('/dry', 3), '404 404 404', 'a dry run';
my ($status, $ban) = api('GET', 'dry/127.0.0.1');
is_deeply [ $status, $ban->{dry_run} ? 1 : 0 ], [ 200, 1 ], 'is found by its key';
is by_hand('dry', '127.0.0.1'), 201, 'a ban that holds';
my $id = $ban->{id};
($status, $ban) = api('GET', 'dry/127.0.0.1');
ok !$ban->{dry_run}, 'comes first';
is((api('DELETE', "dry/$id"))[0], 204, 'each has its id');
is codes('/wet', 1), '403', 'the other one still holds';
is((api('DELETE', 'dry/127.0.0.1'))[0], 204, 'lifted');
is_deeply [ codes('/wet', 1), (api('GET', 'dry'))[1]{count} ], [ 200, 0 ], 'nothing is left';

ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic/, 'nothing bad in the log';
done_testing;
