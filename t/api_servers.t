# /http/upstreams/U/servers: POST adds a server and DELETE takes one away while nginx runs, for all workers, without an error to
# any client, and over reloads. On an nginx that cannot do that both say so.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Sluice::Load;
use JSON::PP;
use Test::More;
use Time::HiRes ();

my ($port, $health, @ports) = map { free_port() } 1 .. 7;
my @backends = map { my $p = $_; backend(port => $p, server => "location / { return 200 '$p'; } location /slow { return 200 'slow'; limit_rate 1; }") } @ports;
my ($one, $two, $three, $four, $five) = @ports;

sub http {
    my $servers = shift || "server 127.0.0.1:$one; server 127.0.0.1:$two;";
    return <<"CONF";
upstream app { zone app 256k; $servers }
upstream small { zone small 32k; server 127.0.0.1:$one; }
upstream hash { zone hash 128k; hash \$arg_k; server 127.0.0.1:$one; }
upstream chash { zone chash 128k; hash \$arg_k consistent; server 127.0.0.1:$one; }
upstream least { zone least 128k; least_conn; server 127.0.0.1:$one; }
upstream random { zone random 128k; random two; server 127.0.0.1:$one; }
upstream ip { zone ip 128k; ip_hash; server 127.0.0.1:$one; }
upstream keep { zone keep 128k; server 127.0.0.1:$one; keepalive 4; }
upstream checked { zone checked 128k; server 127.0.0.1:$one; health_check interval=200ms mandatory uri=/; }
upstream static { server 127.0.0.1:$one; }
server {
    listen 127.0.0.1:$port;
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /read { api; }
    location / { proxy_pass http://\$arg_u; proxy_connect_timeout 2s; }
    location /app { proxy_pass http://app/; proxy_next_upstream error timeout; }
}
CONF
}
my @main = (workers => 2, main => 'error_log logs/error.log notice; worker_shutdown_timeout 2s;');
my $gateway = gateway(@main, http => http());

sub api {
    my ($method, $path, $body) = @_;
    my %of = (method => $method);
    @of{qw(body Content-Type)} = (encode_json($body), 'application/json') if defined $body;
    my $answer = get($port, "/api/9/http/upstreams/$path", %of);
    return (status_of($answer), length body_of($answer) ? decode_json(body_of($answer)) : undef);
}
sub post   { return api(POST   => @_) }
sub delete_ { return api(DELETE => @_) }
sub servers { return (api(GET => "$_[0]/servers"))[1] }
sub code    { return [ $_[0], $_[1]{error}{code} ] }
my ($false, $true) = (JSON::PP::false, JSON::PP::true);

# --- what is refused, on any nginx
is status_of(get($port, '/read/9/http/upstreams/app/servers/', method => 'POST', body => '{"server":"127.0.0.1:1"}', 'Content-Type' => 'application/json')), 405, 'where nobody may write nobody adds';
is status_of(get($port, '/read/9/http/upstreams/app/servers/0', method => 'DELETE')), 405, 'nor takes away';
for my $case (
    [ app => {}, 400, 'UpstreamConfFormatError' ], [ app => { server => '' }, 400, 'UpstreamBadAddress' ], [ app => { server => '127.0.0.1:0' }, 400, 'UpstreamBadAddress' ],
    [ app => { server => 'unix:relative' }, 400, 'UpstreamBadAddress' ], [ app => { server => 5 }, 400, 'UpstreamBadAddress' ], [ app => { server => 'backend.example.com' }, 400, 'UpstreamConfNoResolver' ],
    [ app => { server => '127.0.0.1:81', service => 'http' }, 400, 'UpstreamBadService' ], [ app => { server => '127.0.0.1:81', id => 5 }, 400, 'UpstreamConfFormatError' ],
    [ app => { server => '127.0.0.1:81', weight => 0 }, 400, 'UpstreamBadWeight' ], [ app => { server => '127.0.0.1:81', weight => {} }, 400, 'UpstreamConfFormatError' ],
    [ static => { server => '127.0.0.1:81' }, 400, 'UpstreamStatic' ], [ none => { server => '127.0.0.1:81' }, 404, 'UpstreamNotFound' ])
{
    my ($group, $body, @expected) = @$case;
    is_deeply code(post("$group/servers/", $body)), \@expected, "$group: " . encode_json($body) . " is $expected[1]";
}
is_deeply code(delete_("app/servers/$_->[0]")), $_->[1], "$_->[0] is $_->[1][1]" for [ 9, [ 404, 'UpstreamServerNotFound' ] ], [ 'x', [ 400, 'UpstreamBadServerId' ] ];
is_deeply code(delete_('static/servers/0')), [ 400, 'UpstreamStatic' ], 'a group without a zone';

my ($status, $added) = post('app/servers/', { server => "127.0.0.1:$three" });
if ($status == 400) {
    is $added->{error}{text}, 'adding servers needs nginx 1.27.3 or newer', 'this nginx cannot add servers';
    is_deeply [ (delete_('app/servers/0'))[1]{error}->@{qw(code text)} ], [ 'UpstreamConfFormatError', 'removing servers needs nginx 1.27.3 or newer' ], 'nor take any away';
    is scalar @{ servers('app') }, 2, 'and all is as it was';
    done_testing();
    exit;
}

# --- adding
is_deeply [ $status, $added ], [ 201, { id => 2, server => "127.0.0.1:$three", weight => 1, max_conns => 0, max_fails => 1, fail_timeout => '10s', slow_start => '0s', route => '', backup => $false, down => $false } ],
    'a server is added, with the defaults';
is_deeply [ map { scalar @{ servers('app') } } 1 .. 6 ], [ (3) x 6 ], 'and is there for every worker';
my %seen;
$seen{ body_of(get($port, '/app')) }++ for 1 .. 30;
is_deeply \%seen, { $one => 10, $two => 10, $three => 10 }, 'it serves, alike';
is_deeply code(post('app/servers/', { server => "127.0.0.1:$three" })), [ 409, 'EntryExists' ], 'once is enough';
my $full = { server => "127.0.0.1:$four", max_conns => 321, max_fails => 64, fail_timeout => '21s', slow_start => '12s', weight => 10, route => 'test', backup => $true, down => $true };
($status, $added) = post('app/servers', $full);
is_deeply [ $status, $added ], [ 201, { %$full, id => 3 } ], 'a backup server with all that can be said';
is_deeply servers('app')->[3], { %$full, id => 3 }, 'as it is shown';
is((api(PATCH => 'app/servers/3', { down => $false, weight => 1 }))[0], 200, 'it can be changed');

# --- taking away
($status, my $left) = delete_('app/servers/2/');
is_deeply [ $status, [ map { $_->{id} } @$left ] ], [ 200, [ 0, 1, 3 ] ], 'a server is taken away, and those that remain are told';
is_deeply code(delete_('app/servers/2')), [ 404, 'UpstreamServerNotFound' ], 'twice is too often';
%seen = ();
$seen{ body_of(get($port, '/app')) }++ for 1 .. 20;
is_deeply \%seen, { $one => 10, $two => 10 }, 'it serves no more';
is((delete_('app/servers/0'))[0], 200, 'one of the configuration');
is((delete_('app/servers/1'))[0], 200, 'and the other');
is body_of(get($port, '/app')), $four, 'the backup server is all there is';
is((delete_('app/servers/3'))[0], 200, 'and is taken away too');
is_deeply servers('app'), [], 'nobody is left';
is status_of(get($port, '/app')), 502, 'so there is no answer';
is status_of(get($port, '/api/9/http/upstreams')), 200, 'and the API goes on';
is_deeply [ (post('app/servers/', { server => "127.0.0.1:$five" }))[1]->@{qw(id)} ], [4], 'numbers are not used again';
is body_of(get($port, '/app')), $five, 'and there is an answer';

# --- reload
my $before = servers('app');
ok $gateway->reload, 'nginx reloads';
is_deeply servers('app'), $before, 'servers that were added are there, and those that were taken away are not';
is body_of(get($port, '/app')), $five, 'from the first request on';
is_deeply [ (post('app/servers/', { server => "127.0.0.1:$one", weight => 3 }))[0] ], [201], 'one that was taken away comes back';
ok $gateway->reload, 'nginx reloads once more';
is_deeply [ map { [ $_->@{qw(server weight)} ] } sort { $b->{weight} <=> $a->{weight} } @{ servers('app') } ], [ [ "127.0.0.1:$one", 3 ], [ "127.0.0.1:$five", 1 ] ], 'as it was told';
ok $gateway->reload(@main, http => http("server 127.0.0.1:$one; server 127.0.0.1:$two weight=2; server 127.0.0.1:$five;")), 'the configuration changes';
is_deeply [ map { [ $_->@{qw(server weight)} ] } sort { $a->{server} cmp $b->{server} } @{ servers('app') } ],
    [ sort { $a->[0] cmp $b->[0] } [ "127.0.0.1:$one", 3 ], [ "127.0.0.1:$two", 2 ], [ "127.0.0.1:$five", 1 ] ], 'what it says anew counts';
like $gateway->log, qr/dropped: its removal, upstream "app"|dropped: weight, its removal, upstream "app"/, 'with a notice';

# --- every method, keepalive, a check that has to pass first
for my $group (qw(small hash chash least random ip keep)) {
    is((post("$group/servers/", { server => "127.0.0.1:$two" }))[0], 201, "$group takes another server");
    my @answers = map { body_of(get($port, "/?u=$group&k=$_")) } 1 .. 40;
    is scalar(grep { $_ eq $one || $_ eq $two } @answers), 40, 'and answers';
    cmp_ok scalar(grep { $_ eq $two } @answers), '>', 0, 'from it too' unless $group eq 'ip';
    is((delete_("$group/servers/0"))[0], 200, 'the first one goes');
    is scalar(grep { body_of(get($port, "/?u=$group&k=$_")) eq $two } 1 .. 20), 20, 'and the other serves alone';
}
is_deeply code(post("$_/servers/", { server => "127.0.0.1:$three", backup => $true })), [ 400, 'UpstreamNoBackup' ], "$_ has no backup servers" for qw(hash ip random);
is((post('checked/servers/', { server => "127.0.0.1:$health" }))[0], 201, 'a server that nobody listens on');
is scalar(grep { body_of(get($port, '/?u=checked')) eq $one } 1 .. 20), 20, 'gets nothing before its check has passed';
is((post('checked/servers/', { server => "127.0.0.1:$three" }))[0], 201, 'one that listens');
ok wait_until(5, sub { body_of(get($port, '/?u=checked')) eq $three }), 'serves when it has';
my ($n, $last) = (0);
$n++ while ($last = (post('small/servers/', { server => '127.1.' . int($n / 250) . '.' . ($n % 250) . ':81', down => $true }))[0]) == 201 && $n < 2000;
is $last, 400, "a zone is full after $n servers";
is_deeply code(post('small/servers/', { server => '127.2.0.1:81' })), [ 400, 'UpstreamOutOfMemory' ], 'and says so';
is body_of(get($port, '/?u=small')), $two, 'and serves';

# --- numbers for servers that come and go do not run out
my $failed = 0;
for my $n (1 .. 150) {
    my ($status, $server) = post('least/servers/', { server => "127.3.0.$n:81", down => $true });
    $failed++ unless $status == 201 && (delete_("least/servers/$server->{id}"))[0] == 200;
}
is $failed, 0, 'a hundred and fifty come and go';

# --- under load, with changes from two sides and reloads in between
my @kids = map {
    my $mine = $_;
    my $pid  = fork // die;
    if (!$pid) {
        my $until = Time::HiRes::time() + 4;
        while (Time::HiRes::time() < $until) {
            my ($status, $server) = post('app/servers/', { server => "127.0.0.1:$mine" });
            api(PATCH => "app/servers/$server->{id}", { weight => 1 + int rand 5 }) if $status == 201;
            delete_("app/servers/$server->{id}") if $status == 201;
        }
        POSIX::_exit(0);
    }
    $pid;
} $three, $four;
my $reloads = 0;
my $began   = Time::HiRes::time();
my @answers = load_for(4.2, [$port], '/app', at_once => 8, meanwhile => sub {
    return if Time::HiRes::time() < $began + $reloads + 0.8;
    $reloads++;
    $gateway->signal('HUP');
});
waitpid $_, 0 for @kids;
my %status;
$status{ $_->{status} }++ for @answers;
my $good = delete $status{200};
cmp_ok $good, '>', 100, 'a load of requests';
# A retry of a request whose list has changed finds "no live upstreams" in nginx itself: nothing fails here, so nothing retries.
is_deeply \%status, {}, 'and none of them fails while servers come and go and nginx reloads' or diag explain \%status;
ok wait_until(10, sub { 2 == $gateway->workers }), 'two workers';
is status_of(get($port, '/app')), 200, 'that serve';
# What nginx itself says of a zone that is full.
(my $log = $gateway->log) =~ s/^.*ngx_slab_alloc\(\) failed: no memory in upstream zone "small".*\n//mg;
unlike $log, qr/exited on signal|\[(alert|emerg|crit)\]|open socket/, 'nothing untoward in the log';
done_testing();
