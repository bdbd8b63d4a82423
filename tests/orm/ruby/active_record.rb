# ActiveRecord: a transaction for one account, denials as exceptions with an HTTP status.
# Where the server is comes from libpq's environment (PGHOST, PGDATABASE …).

require "active_record"
require "json"
require "time"

POOL_SIZE = 1 # so that the checks meet a connection that was used before; an application has more

# recipe: connection
# As in database.yml. A pooler in transaction mode knows neither prepared statements nor session locks.
ActiveRecord::Base.establish_connection(adapter: "postgresql", pool: POOL_SIZE, prepared_statements: false, advisory_locks: false)
# end

# recipe: account
# Models inherit from this class.
class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true

  # A transaction for the account: it ends with the transaction, whatever ends that. In a controller:
  #   around_action { |_, action| ApplicationRecord.acting_for(current_user.account, &action) }
  def self.acting_for(account)
    raise "the account is that of a whole transaction" if connection.current_transaction.joinable?

    transaction do
      connection.select_value(sanitize_sql(["SELECT entitlements.set_account(?::text)", account]))
      yield
    end
  rescue ActiveRecord::StatementInvalid => error
    raise Denied.of(error) || error
  end

  def self.consume(feature, key)
    connection.select_value(sanitize_sql(
      ["SELECT remaining FROM entitlements.consume(entitlements.current_account(), ?, 1, ?)", feature, key]
    ))
  end
end
# end

# recipe: denied
# In a controller:
#   rescue_from(Denied) do |denied|
#     response.headers.merge!(denied.headers)
#     render json: denied.detail, status: denied.status
#   end
class Denied < StandardError
  STATUS = { "NE001" => 403, "NE002" => 402, "NE012" => 401 }.freeze
  attr_reader :status, :detail, :headers

  # The denial that an error of the database is, nil if it is something else.
  def self.of(error)
    result = error.cause.result if error.cause.is_a?(PG::Error)
    status = result && STATUS[result.error_field(PG::Result::PG_DIAG_SQLSTATE)]
    new(status, JSON.parse(result.error_field(PG::Result::PG_DIAG_MESSAGE_DETAIL))) if status
  end

  def initialize(status, detail)
    super(detail["reason"])
    @status, @detail, @headers = status, detail, {}
    return unless detail["reason"] == "rate_limited"

    @status = 429
    @headers["Retry-After"] = [1, (Time.iso8601(detail["resets_at"]) - Time.now).ceil].max.to_s
  end
end
# end

class Report < ApplicationRecord; end

# recipe: work
class Export < ApplicationRecord
  # The database fills in the current account.
  self.ignored_columns = ["account_id"]

  # Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
  def self.make(account, file, request)
    acting_for(account) do
      insert_all([{ file: file, request: request }])
      consume("exports", request)
    end
  end
end
# end

def reports(account)
  ApplicationRecord.acting_for(account) { Report.order(:id).pluck(:title) }
end

def search(account)
  ApplicationRecord.acting_for(account) { Report.connection.execute("SELECT FROM entitlements.consume('searches')") }
end

$failed = []

def check(what, holds)
  puts "#{holds ? 'ok' : 'not ok'} - #{what}"
  $failed << what unless holds
end

def respond
  yield
  [200, {}]
rescue Denied => denied
  [denied.status, denied.headers]
end

# How many exports there are, and how many units are used.
def state(account)
  ApplicationRecord.acting_for(account) do
    [Export.count, Export.connection.select_value("SELECT used::int FROM entitlements.check_access('exports')")]
  end
end

check("an account sees its own rows and no others", reports("acme") == %w[July August])
check("an account without the feature sees no rows", reports("hobby") == [])
check("without an account there are no rows", reports(nil) == [])

check("a row and the unit it takes are committed together", Export.make("acme", "a.csv", "r1") == 2 && state("acme") == [1, 1])

begin
  ApplicationRecord.acting_for("acme") do
    Export.create!(file: "b.csv", request: "r2")
    ApplicationRecord.consume("exports", "r2")
    raise IOError, "the disk is full"
  end
rescue IOError
  check("a rollback gives the unit back", state("acme") == [1, 1])
end

ApplicationRecord.acting_for("acme") do
  ApplicationRecord.transaction(requires_new: true) do
    ApplicationRecord.consume("exports", "r2")
    raise ActiveRecord::Rollback
  end
end
check("a rollback to a savepoint gives its unit back", state("acme") == [1, 1])

check("the same request again takes nothing", Export.make("acme", "a.csv", "r1") == 2 && state("acme") == [1, 1])

Export.make("acme", "b.csv", "r2")
Export.make("acme", "c.csv", "r3")
status, = respond { Export.make("acme", "d.csv", "r4") }
check("used up: 402, and the row is not there", status == 402 && state("acme") == [3, 3])
status, = respond { Export.make("hobby", "a.csv", "r1") }
check("not entitled: 403", status == 403)
first, = respond { search("globex") }
second, headers = respond { search("globex") }
check("too fast: 429 with Retry-After", first == 200 && second == 429 && headers["Retry-After"].to_i.between?(1, 60))

left = ApplicationRecord.connection.select_value("SELECT entitlements.current_account()")
check("the next transaction of the connection has no account", left.nil?)

exit $failed.empty?
